"""The coordinate check: µP passes, `sp` fails, and each planted fault is caught with its culprit and a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mutransfer.errors import Interrupted, PlanError, UsageError
from mutransfer.verification import CoordinateCheck, check_config, coordinate_check, quick_check
from mutransfer.verification.reason import DoesNotGrow, Unusable
from mutransfer.verification.verdict import ModuleVerdict
from tests.conftest import build
from tests.verification.faults import FAULTS, Net, Planted

Data = dict[str, Any]
BASE = 32  # of Net


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    return Planted(monkeypatch)


def check_mlp(mlp: Data, seeds: int = 2, **changes: Any) -> CoordinateCheck:
    config = build(mlp, model__width=64, model__base_width=64, training__batch_size=64, **changes)
    return check_config(config, control=False, seeds=seeds)


def check_gpt(
    gpt: Data, *, control: bool = False, seeds: int = 2, sizes: list[int] | None = None, **changes: Any
) -> CoordinateCheck:
    changes = {"model__width": 32, "model__base_width": 32, "model__head_dim": 16, **changes}
    return check_config(build(gpt, hparams__lr=4e-3, **changes), control=control, seeds=seeds, sizes=sizes)


ADAM = {"hparams__optimizer": "adam", "hparams__lr": 4e-3}


def of(check: CoordinateCheck, module: str) -> ModuleVerdict:
    return next(one for one in check.modules if one.module == module)


def test_mup_passes_over_16_times_the_width_and_sp_fails(gpt: Data) -> None:
    check = check_gpt(gpt, control=True)
    assert (check.outcome, check.passed, check.culprit, check.hint) == ("passed", True, None, None)
    assert check.sizes == (32, 64, 128, 256, 512)
    for one in check.modules:
        for slope in (one.size, one.change):
            assert slope is None or abs(slope.value) <= 0.1, one
    assert check.control is not None
    assert sum(one.outcome == "fail" for one in check.control) > len(check.control) / 2
    logits = of(check, "blocks.0.attention.attention_logits")
    assert (logits.kind, logits.size) == ("attention logits", None)
    assert of(check, "readout").kind == "readout"


@pytest.mark.parametrize("changes", [{}, ADAM], ids=["sgd", "adam"])
def test_an_mlp_passes_with_a_random_readout_too(mlp: Data, changes: Data) -> None:
    """Which shrinks at init by the central limit theorem, and is not to be blamed for it."""
    check = check_mlp(mlp, model__zero_readout=False, **changes)
    assert check.passed, check.sentence
    size = of(check, "readout").size
    assert size is not None
    assert size.value == pytest.approx(-0.5, abs=0.15)


def test_random_queries_pass_though_their_logits_shrink_at_init(gpt: Data) -> None:
    wider = {"model__width": 64, "model__base_width": 64, "model__head_dim": None, "model__heads": 2}
    check = check_gpt(gpt, model__zero_query=False, sizes=[64, 128, 256, 512], **wider)
    assert check.passed, check.sentence
    size = of(check, "blocks.0.attention.attention_logits").size
    assert size is not None
    assert size.value < -0.25


MLP_FAULTS = [
    ("readout multiplier missing", "readout", "multiplier 1/m_in is missing"),
    ("readout multiplier applied twice", "readout", "multiplier 1/m_in is applied twice"),
    ("readout lr divided as well", "readout", {"sgd": "not multiplied by m_in", "adam": "divided by m_in although"}),
    ("hidden lr not divided", "layers.1", {"sgd": "lr of a hidden weight grows", "adam": "is not divided by m_in"}),
    ("hidden lr divided twice", "layers.1", {"sgd": "hidden weight shrinks", "adam": "divided by more than m_in"}),
    ("hidden init not divided", "layers.1", "initial std of a hidden weight is not divided by √m_in"),
    ("embedding lr treated as hidden", "layers.0", {"sgd": "not multiplied by m_out", "adam": "like a hidden"}),
    ("embedding init treated as hidden", "layers.0", "initial std of an input weight"),
]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("fault", "culprit", "hint"), MLP_FAULTS, ids=[fault for fault, _, _ in MLP_FAULTS])
def test_a_fault_in_an_mlp_is_caught(
    mlp: Data, planted: Planted, fault: str, culprit: str, hint: Any, optimizer: str
) -> None:
    planted(fault)
    check = check_mlp(mlp, seeds=1, **(ADAM if optimizer == "adam" else {}))
    assert (check.outcome, check.culprit) == ("failed", culprit)
    assert (hint if isinstance(hint, str) else hint[optimizer]) in str(check.hint)


GPT_FAULTS = [
    ("readout multiplier missing", "readout", "multiplier 1/m_in is missing"),
    ("readout multiplier applied twice", "readout", "multiplier 1/m_in is applied twice"),
    ("hidden lr not divided", "blocks.0.attention.query", "lr of a hidden weight is not divided by m_in"),
    ("hidden init not divided", "blocks.0.attention.key", "initial std of a hidden weight is not divided by √m_in"),
    ("embedding lr treated as hidden", "embedding", "lr of an input weight (embedding, first layer) is divided like"),
    ("embedding init treated as hidden", "embedding", "initial std of an input weight"),
    ("attention 1/√d", "blocks.0.attention.attention_logits", "1/√head_dim instead of 1/head_dim"),
]


@pytest.mark.parametrize(("fault", "culprit", "hint"), GPT_FAULTS, ids=[fault for fault, _, _ in GPT_FAULTS])
def test_a_fault_in_a_gpt_is_caught(gpt: Data, planted: Planted, fault: str, culprit: str, hint: str) -> None:
    planted(fault)
    growing_heads = {"model__head_dim": None, "model__heads": 2}
    check = check_gpt(gpt, seeds=1, **(growing_heads if fault == "attention 1/√d" else {}))
    assert (check.outcome, check.culprit) == ("failed", culprit)
    assert hint in str(check.hint)


@pytest.mark.parametrize("parametrization", ["sp", "ntk"])
def test_a_control_fails_as_it_should_and_no_missing_rule_is_blamed(mlp: Data, parametrization: str) -> None:
    check = check_mlp(mlp, seeds=1, parametrization=parametrization)
    assert check.outcome == "failed"
    assert f"parametrization {parametrization} is " in str(check.hint)
    assert "is expected to fail" in str(check.hint)
    assert "missing" not in str(check.hint)


def test_every_fault_is_tried() -> None:
    assert {fault for fault, _, _ in (*MLP_FAULTS, *GPT_FAULTS)} == set(FAULTS)


def test_a_random_readout_without_its_multiplier_grows_at_init(mlp: Data, planted: Planted) -> None:
    """With the standard deviation that goes with the multiplier: 0 by default, else that of base width."""
    planted("readout multiplier missing")
    check = check_mlp(mlp, model__zero_readout=False)
    assert check.culprit == "readout"
    assert of(check, "readout").first_step == 0
    assert "initial std is not 0" in str(check.hint)


@pytest.mark.parametrize("fault", [None, *(fault for fault, _, _ in GPT_FAULTS)])
def test_the_quick_check_catches_the_same_in_seconds(gpt: Data, planted: Planted, fault: str | None) -> None:
    if fault is not None:
        planted(fault)
    base = {"model__width": 128, "model__base_width": 128, "model__head_dim": None, "model__heads": 4}
    check = quick_check(build(gpt, hparams__lr=4e-3, **base))
    assert check.sizes == (32, 64, 128, 256)
    assert check.passed == (fault is None), check.sentence
    assert fault is None or check.culprit == {name: culprit for name, culprit, _ in GPT_FAULTS}[fault]


def test_the_quick_check_fails_sp(mlp: Data) -> None:
    assert quick_check(build(mlp, parametrization="sp")).outcome == "failed"


def check_net(factory: Callable[[int], nn.Module] = Net, **options: Any) -> CoordinateCheck:
    tokens = torch.randint(0, 16, (8, 9), generator=torch.Generator().manual_seed(0))
    asked: dict[str, Any] = {"seeds": 2, "base_width": BASE, "lr": 4e-3, "control": False, **options}
    return coordinate_check(factory, inputs=tokens[:, :-1], targets=tokens[:, 1:], **asked)


def test_a_users_module_passes_and_its_control_fails() -> None:
    check = check_net(control=True)
    assert check.outcome == "passed", check.sentence
    assert {one.module: one.role for one in check.modules}["up"] == "hidden"


def test_a_dimension_that_does_not_grow_is_named_unless_it_is_meant() -> None:
    check = check_net(lambda width: Net(width, inner=48), plan_options={"zero_readout": False})
    assert (check.outcome, check.culprit) == ("failed", "up")
    assert "48 at every width" in check.sentence
    assert "should be the width" in str(check.hint)
    meant = check_net(lambda width: Net(width, inner=48), plan_options={"zero_readout": False}, finite=["up"])
    assert not any(isinstance(why, DoesNotGrow) for one in meant.modules for why in one.reasons)


def own(optimizer: Callable[[nn.Module], list[nn.Parameter]]) -> dict[str, Any]:
    """µP by hand around plain AdamW, over the parameters that `optimizer` picks."""

    def prepare(model: nn.Module, width: int) -> None:
        assert isinstance(model, Net)
        nn.init.normal_(model.embedding.weight)
        nn.init.zeros_(model.readout.weight)
        model.readout.register_forward_pre_hook(lambda module, inputs: (inputs[0] * BASE / width,))

    def make_optimizer(model: nn.Module, width: int) -> torch.optim.Optimizer:
        chosen = optimizer(model)
        hidden = [one for name, one in model.named_parameters() if name in ("up.weight", "down.weight")]
        hidden = [one for one in hidden if any(one is other for other in chosen)]
        others = [one for one in chosen if not any(one is other for other in hidden)]
        groups = [{"params": hidden, "lr": 4e-3 * BASE / width}, {"params": others, "lr": 4e-3}]
        return torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-16)

    return {"prepare": prepare, "make_optimizer": make_optimizer}


def test_a_users_own_mup_passes() -> None:
    check = check_net(**own(lambda model: list(model.parameters())))
    assert (check.outcome, check.parametrization, check.control) == ("passed", "own", None), check.sentence


@pytest.mark.parametrize("left_out", ["embedding.weight", "up.weight", "down.weight", "readout.bias"])
def test_a_parameter_missing_from_the_optimizer_is_named(left_out: str) -> None:
    check = check_net(**own(lambda model: [one for name, one in model.named_parameters() if name != left_out]))
    assert (check.outcome, check.culprit) == ("failed", left_out.partition(".")[0])
    assert f"lack {left_out}" in check.sentence
    assert "from all parameters" in str(check.hint)


def test_the_package_mup_passes_and_a_plain_optimizer_in_its_place_does_not() -> None:
    mup = pytest.importorskip("mup")

    class MupNet(Net):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.readout = mup.MuReadout(width, 16, readout_zero_init=True)

    def prepare(model: nn.Module, width: int) -> None:
        mup.set_base_shapes(model, MupNet(BASE), delta=MupNet(2 * BASE))
        nn.init.normal_(model.get_parameter("embedding.weight"))
        for name in ("up.weight", "down.weight"):
            mup.init.normal_(model.get_parameter(name), std=BASE**-0.5)

    def mup_adamw(model: nn.Module, width: int) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = mup.MuAdamW(model.parameters(), lr=4e-3, eps=1e-16)
        return optimizer

    def adamw(model: nn.Module, width: int) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=4e-3, eps=1e-16)

    check = check_net(MupNet, prepare=prepare, make_optimizer=mup_adamw)
    assert check.outcome == "passed", check.sentence
    check = check_net(MupNet, prepare=prepare, make_optimizer=adamw)
    assert (check.outcome, check.culprit) == ("failed", "up")
    assert "lr of a hidden weight is not divided by m_in" in str(check.hint)


def test_a_control_that_does_not_fail_takes_the_power_from_the_check() -> None:
    check = check_net(lr=1e-8, control=True, threshold=3.0)
    assert (check.outcome, check.passed, check.culprit) == ("no power", False, None)
    assert "no power" in check.sentence


def test_divergence_is_a_failure_that_names_the_sizes() -> None:
    check = check_net(optimizer="sgd", lr=1e6)
    assert check.outcome == "failed"
    assert any(isinstance(why, Unusable) and not why.finite for one in check.modules for why in one.reasons)


def test_nothing_moving_is_a_failure() -> None:
    def frozen(model: nn.Module, width: int) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.0)

    check = check_net(prepare=lambda model, width: None, make_optimizer=frozen)
    assert (check.outcome, check.culprit) == ("failed", "embedding")
    assert "is zero although trainable" in check.sentence
    assert any("does not move: it has its initial value" in text for text in check.warnings)


class Deep(nn.Module):
    """x + 0.3 · f(x) in `depth` blocks, with or without 1/depth on the branch."""

    def __init__(self, depth: int, power: float) -> None:
        super().__init__()
        self.inlet = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.readout = nn.Linear(32, 4)
        self.branch = depth**-power

    def forward(self, x: Tensor) -> Tensor:
        x = self.inlet(x)
        for block in self.blocks:
            x = x + self.branch * torch.tanh(block(x))
        out: Tensor = self.readout(x)
        return out


@pytest.mark.parametrize(("power", "outcome"), [(1.0, "passed"), (0.0, "failed")])
def test_over_depth_first_and_last_blocks_are_compared(power: float, outcome: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(32, 8, generator=generator), torch.randint(0, 4, (32,), generator=generator)
    check = coordinate_check(
        lambda depth: Deep(depth, power),
        inputs=inputs,
        targets=targets,
        base_width=32,
        widths=[2, 4, 8, 16, 32],
        axis="depth",
        prepare=lambda model, depth: None,
        make_optimizer=lambda model, depth: torch.optim.Adam(model.parameters(), lr=1e-3),
        seeds=2,
    )
    assert [one.module for one in check.modules] == ["inlet", "blocks.first", "blocks.last", "readout"]
    assert check.outcome == outcome, check.sentence
    assert check.passed or "residual branches" in str(check.hint)


def test_unclear_modules_get_as_many_seeds_again() -> None:
    few = check_net(seeds=1, widths=[32, 64, 128])
    assert few.seeds == 2
    assert all(one.outcome in ("pass", "fail") for one in few.modules)


def test_a_stop_is_an_interruption() -> None:
    with pytest.raises(Interrupted):
        check_net(should_stop=lambda: True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [64, 128]}, "a slope needs three of them"),
        ({"steps": 5}, "steps must be >= 6"),
        ({"threshold": 0.0}, "threshold must be a positive number"),
        ({"prepare": lambda model, width: None}, "belong together"),
        ({"axis": "depth"}, "over depth give prepare"),
    ],
)
def test_impossible_arguments_are_refused(options: Data, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_net(**options)


def test_a_config_that_cannot_take_a_size_is_refused_before_anything_runs(gpt: Data) -> None:
    with pytest.raises(UsageError, match=r"cannot be built at width 36.*does not divide"):
        check_config(build(gpt), sizes=[16, 36, 64])
    with pytest.raises(UsageError, match="axis height: must be width or depth"):
        check_config(build(gpt), axis="height")
    with pytest.raises(PlanError):
        check_net(optimizer="adam", weight_decay=0.1)
