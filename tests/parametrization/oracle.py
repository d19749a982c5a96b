"""Our models and their twins built by the means of microsoft's `mup` package, side by side, in float64.

The twin is the same class with the same names, so whatever differs between the two is a rule: its readout is a
`MuReadout` (or `MuSharedReadout`), its base shapes are set by `mup.set_base_shapes`, its weights are drawn by
`mup.init` and its optimizer is `MuAdam`, `MuAdamW` or `MuSGD`. Attention's scale is the one thing that the package
leaves to its users; the twin writes √(base d_head)/d_head, as its README asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import mup
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.data import ClassSpec, DataSpec, TokenSpec
from mutransfer.config.hparams import Hparams
from mutransfer.config.models import BaseModelSection, GPTSection, MLPSection
from mutransfer.models import build_model
from mutransfer.parametrization.apply import initialize, set_multipliers
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.optimizers import build_optimizer

BASE_WIDTH = 16
TOKENS = TokenSpec(vocab_size=24, seq_len=8)
CLASSES = ClassSpec(shape=(6,), classes=10)
# With ε out of the way: the package does not scale it and we do.
NO_EPS = 1e-30


def gpt(m: int, **fields: object) -> GPTSection:
    """A gpt at width multiplier `m` whose readout, query and norm gains take part from the first step."""
    heads = {} if "heads" in fields else {"head_dim": 8}
    tied = bool(fields.get("tied_embeddings"))
    settings = {
        "depth": 2, "mlp_ratio": 2, "positions": "learned", "norm_gain": True, "zero_query": False, **heads, **fields,
    }  # fmt: skip
    if not tied:
        settings["zero_readout"] = False
    return GPTSection.model_validate({"kind": "gpt", "width": m * BASE_WIDTH, "base_width": BASE_WIDTH, **settings})


def mlp(m: int, **fields: object) -> MLPSection:
    """An mlp with biases at width multiplier `m`."""
    settings = {"depth": 3, "activation": "tanh", "zero_readout": False, **fields}
    return MLPSection.model_validate({"kind": "mlp", "width": m * BASE_WIDTH, "base_width": BASE_WIDTH, **settings})


def hparams(optimizer: str, **fields: object) -> Hparams:
    """Hparams with weight decay where the optimizer has it, and an ε that plays no part."""
    settings: dict[str, object] = {
        "optimizer": optimizer,
        "lr": 0.1 if optimizer == "sgd" else 0.02,
        "schedule": "constant",
        "warmup": 0.0,
    }
    if optimizer != "adam":
        settings["weight_decay"] = 0.125
    if optimizer != "sgd":
        settings["eps"] = NO_EPS
    return Hparams.model_validate({**settings, **fields})


def spec_of(section: BaseModelSection) -> DataSpec:
    """Shape of the data that a section's model is compared on."""
    return TOKENS if section.kind == "gpt" else CLASSES


def our_plan(
    section: BaseModelSection,
    spec: DataSpec,
    optimizer: str,
    parametrization: str = "mup",
    init_std: Mapping[str, float] | None = None,
) -> Plan:
    """Our plan for every comparison. Rules beyond the package's, where there are any, are to be turned off here."""
    return plan_for(
        lambda width: build_model(section.at_width(width), spec),
        width=section.width,
        base_width=section.base_width,
        optimizer=optimizer,
        parametrization=parametrization,  # type: ignore[arg-type]  # tests name it by text
        init_std=init_std,
        zero_readout=section.zero_readout is not False,
    )


@dataclass
class Pair:
    """Our model and its twin with the same weights, and what each was made by."""

    section: BaseModelSection
    hparams: Hparams
    plan: Plan
    ours: nn.Module
    twin: nn.Module

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        generator = torch.Generator().manual_seed(0)
        if self.section.kind == "gpt":
            tokens = torch.randint(0, TOKENS.vocab_size, (4, TOKENS.seq_len + 1), generator=generator)
            return tokens[:, :-1], tokens[:, 1:]
        features = torch.randn(16, *CLASSES.shape, generator=generator, dtype=torch.float64)
        return features, torch.randint(0, CLASSES.classes, (16,), generator=generator)

    def logits(self) -> tuple[Tensor, Tensor]:
        """Ours and the twin's."""
        inputs, _ = self.batch()
        return self.ours(inputs), self.twin(inputs)

    def losses(self, *, steps: int = 5) -> tuple[list[float], list[float]]:
        """Ours and the twin's over the first `steps` steps, all on one batch: only training changes them."""
        batches = [self.batch()] * steps
        own = train(self.ours, build_optimizer(self.ours, self.plan, self.hparams), batches)
        return own, train(self.twin, mup_optimizer(self.twin, self.hparams), batches)


def pair(section: BaseModelSection, given: Hparams, parametrization: str = "mup") -> Pair:
    """Our model, initialised as planned, and the twin with a copy of the weights."""
    spec = spec_of(section)
    plan = our_plan(section, spec, given.optimizer, parametrization)
    ours = build_model(section, spec).double()
    initialize(ours, plan, seed=1, init_scale=given.init_scale)
    ours.double()  # buffers too; setting them again gives them float64's digits
    set_multipliers(ours, plan, temperature=given.temperature, attention_temperature=given.attention_temperature)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.ndim < 2:  # biases of zero and gains of one would hide what happens to them
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.add_(noise, alpha=0.1)
    copy = twin(section, output_mult=1.0 / given.temperature, attention_mult=1.0 / given.attention_temperature)
    copy.load_state_dict(dict(ours.named_parameters(remove_duplicate=False)))
    return Pair(section, given, plan, ours, copy)


def twin(
    section: BaseModelSection, spec: DataSpec | None = None, *, output_mult: float = 1.0, attention_mult: float = 1.0
) -> nn.Module:
    """The model of `section` with `mup`'s readout and base shapes, weights as `set_base_shapes` leaves them."""

    def made(width: int) -> nn.Module:
        model = build_model(section.at_width(width), spec or spec_of(section)).double()
        old = model.readout
        if getattr(section, "tied_embeddings", False):
            model.readout = mup.MuSharedReadout(model.embedding.weight, bias=False, output_mult=output_mult)
            gain = section.base_width**0.5  # here a plan's gain, there part of the model
            model.embedding.register_forward_hook(lambda module, inputs, output: output * gain)
        else:
            model.readout = mup.MuReadout(
                old.in_features, old.out_features, bias=old.bias is not None, output_mult=output_mult
            ).double()
        return model

    model = mup.set_base_shapes(made(section.width), made(section.base_width), delta=made(2 * section.base_width))
    if isinstance(section, GPTSection):
        base, own = section.head_dim_at(section.base_width), section.head_dim_at(section.width)
        for block in model.blocks:
            block.attention.attention_scale.fill_(attention_mult * base**0.5 / own)
    return model


def mup_optimizer(model: nn.Module, given: Hparams, *, plain: bool = False) -> torch.optim.Optimizer:
    """The package's optimizer for `given`; unless `plain`, biases and gains are in a group without decay."""
    parameters = list(model.parameters())
    groups: list[dict[str, object]] = [
        {"params": [one for one in parameters if one.ndim >= 2]},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    params = parameters if plain else groups
    if given.optimizer == "sgd":
        return mup.MuSGD(params, lr=given.lr, momentum=given.resolved("momentum"), weight_decay=given.weight_decay)
    make = mup.MuAdamW if given.optimizer == "adamw" else mup.MuAdam
    betas = (given.resolved("beta1"), given.resolved("beta2"))
    return make(params, lr=given.lr, betas=betas, eps=given.resolved("eps"), weight_decay=given.weight_decay)


def settings(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """`{parameter name: (lr, weight decay)}` of an optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """Losses before each step, in nats."""
    losses = []
    for inputs, targets in batches:
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def drawn_std(tensor: Tensor, draw: Callable[[Tensor], object], unit: Callable[[Tensor], object]) -> float:
    """The exact factor between what `draw` fills in and what `unit`, of std 1, does from the same random stream.

    The tensor is left as it was.
    """
    with torch.random.fork_rng(), torch.no_grad():
        before, units = tensor.clone(), torch.empty_like(tensor)
        torch.manual_seed(0)
        draw(tensor)
        values = tensor.clone()
        tensor.copy_(before)
        torch.manual_seed(0)
        unit(units)
    factor = (values.flatten()[0] / units.flatten()[0]).item()
    torch.testing.assert_close(values, factor * units, rtol=1e-9, atol=0.0)
    return factor


def mup_stds(model: nn.Module) -> dict[str, float]:
    """The std that `mup.init` gives each weight matrix of a twin: embeddings std 1, dense ones 1/√fan_in at base.

    A tied weight is drawn as a readout. Biases and gains have no std: a user of the package sets them by hand.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, mup.MuSharedReadout)}
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding | nn.Linear) or isinstance(module, mup.MuSharedReadout):
            continue
        lookup = isinstance(module, nn.Embedding) and id(module.weight) not in shared
        draw = mup.init.normal_ if lookup else linear_kaiming
        found[f"{name}.weight"] = drawn_std(module.weight, draw, nn.init.normal_)
    return found


def linear_kaiming(tensor: Tensor) -> Tensor:
    """`mup.init`'s Kaiming draw with gain 1, 1/√fan_in at base width."""
    return mup.init.kaiming_normal_(tensor, nonlinearity="linear")


def assert_same_init(both: Pair) -> None:
    """The plan's stds are the package's to the last digits, and our weights were drawn with them."""
    expected = mup_stds(both.twin)
    matrices = {name: one for name, one in both.ours.named_parameters() if one.ndim >= 2}
    assert expected.keys() == matrices.keys()
    for name, weight in matrices.items():
        planned = both.plan.parameters[name].init_std
        assert planned is not None
        assert abs(planned / expected[name] - 1) < 1e-9, (name, planned, expected[name])
        # five standard errors of a normal sample's RMS
        assert abs(weight.square().mean().sqrt().item() / expected[name] - 1) < 5 / (2 * weight.numel()) ** 0.5, name


def assert_same_settings(both: Pair) -> None:
    """lr and weight decay of every parameter are the package's."""
    own = settings(both.ours, build_optimizer(both.ours, both.plan, both.hparams))
    theirs = settings(both.twin, mup_optimizer(both.twin, both.hparams))
    assert own.keys() == theirs.keys()
    for (name, mine), other in zip(own.items(), (theirs[name] for name in own), strict=True):
        for number, expected in zip(mine, other, strict=True):
            assert abs(number - expected) <= 1e-12 * abs(expected), (name, mine, other)


def assert_same_logits(both: Pair) -> None:
    """Logits are the package's."""
    own, theirs = both.logits()
    assert theirs.std() > 1e-3  # neither readout nor query is zero
    torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-10)


def assert_same_losses(both: Pair, *, rtol: float = 1e-8) -> None:
    """Losses of the first steps are the package's."""
    own, theirs = both.losses()
    assert theirs[-1] < theirs[0] - 0.01  # it trains
    for mine, other in zip(own, theirs, strict=True):
        assert abs(mine - other) <= rtol * abs(other), (own, theirs)
