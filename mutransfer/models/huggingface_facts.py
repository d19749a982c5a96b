"""The facts about a model of the transformers library that its shapes do not tell."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from torch import nn

from mutransfer.config.models import HuggingFaceSection
from mutransfer.errors import ConfigError, PlanError
from mutransfer.models.huggingface_config import dropouts
from mutransfer.models.huggingface_multipliers import own_multipliers, token_tables
from mutransfer.models.transformer import named
from mutransfer.parametrization.facts import ModelFacts
from mutransfer.parametrization.layers import is_layer
from mutransfer.parametrization.rules import Role

Layout = Literal["out_in", "in_out"]
ALONE = ("q_proj", "query", "q_lin", "q_b_proj", "q", "Wq")
"""Names of layers that give queries only."""
QUERY_NORM = re.compile(r"(q|qk|query)(_b)?_?(layer_?)?norm|q_ln")
"""Names of norms of queries, behind which the size of query weights has no effect."""
_POSITIONS = ("wpe", "position_embeddings", "embed_positions", "relative_attention_bias")
_ROUTER = re.compile(r"router|gate$|\bgate\b|topk|hyper", re.IGNORECASE)
_PER_CHANNEL = re.compile(r"bias$|^A_log$|^scale$")
# They divide a product over the whole width by its root, which is wrong for every width but one.
_WITHOUT_RULE = ("Inkling2BlockAttentionResidual", "Qwen4ExpTextPLELayer")


def family_facts(
    model: nn.Module, base: nn.Module, wider: nn.Module, section: HuggingFaceSection, heads: dict[str, int]
) -> ModelFacts:
    """The facts of a model.

    Args:
        base: the same at the base width, on any device; `wider` at twice that.
        heads: its attention modules and their head sizes.

    Raises:
        ConfigError: the section asks for zeros that are impossible.
        PlanError: the family does something with the width for which there is no rule.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        if type(module).__name__ in _WITHOUT_RULE:
            raise PlanError(
                f"{section.config}: {name}, a {type(module).__name__}, divides by the root of the width where no "
                "rule is known, so this family cannot be scaled"
            )
    queries = _queries(modules, section)
    tables, head = token_tables(model), model.get_output_embeddings()  # type: ignore[operator]
    head = None if isinstance(head, nn.Embedding) else head  # FSMT names the wrong one
    if section.zero_readout and any(head is not None and one.weight is head.weight for one in tables.values()):
        raise ConfigError("model.zero_readout: is impossible: the config ties the embedding to the readout")
    kept = dropouts(model.config)
    names = {module: name for name, module in modules.items()}
    gains, start = _start(tables, head, base, section.base_width)
    roles = _roles(modules, _growth(base, wider), "" if head is None else names[head])
    facts = ModelFacts(
        readouts=None if head is None else (names[head],),
        positions=tuple(
            name
            for name in named(model, nn.Embedding)
            if name.rpartition(".")[2] in _POSITIONS and modules[name].weight.requires_grad
        ),
        roles=roles,
        layouts=_layouts(modules),
        finite=tuple(name.rpartition(".")[0] for name, role in roles.items() if role == "output"),
        gains=gains,
        init_std={**start, **{f"{name}.weight": 0.0 for name in queries}, **_small(model, section)},
        attention=heads,
        warnings=(f"model.dropout is on ({', '.join(kept)}): TP-V lists regularisation as not transferable",)
        if kept
        else (),
    )
    return facts.extended(roles=section.roles, finite=section.finite)


def _queries(modules: Mapping[str, nn.Module], section: HuggingFaceSection) -> list[str]:
    """The layers whose weights start at zero."""
    alone = [name for name, one in modules.items() if name.rpartition(".")[2] in ALONE and is_layer(one)]
    # The gradient of a norm at zero is very large, and the first step would fix the direction of its queries.
    normed = {name.rpartition(".")[0] for name in modules if QUERY_NORM.fullmatch(name.rpartition(".")[2])}
    free = [name for name in alone if name.rpartition(".")[0] not in normed]
    if section.zero_query and not free:
        why = (
            "the queries of this family are normalised"
            if alone
            else "queries, keys and values of this family are one matrix"
        )
        raise ConfigError(f"model.zero_query: is impossible: {why}; leave it out")
    return free if section.zero_query is not False else []


def _start(
    tables: Mapping[str, nn.Embedding], head: nn.Module | None, base: nn.Module, base_width: int
) -> tuple[dict[str, float], dict[str, float]]:
    """`{module: gain}` and `{weight: std at base width}` with which embeddings start with outputs of std 1.

    A weight that is the readout too starts at 1/√base_width for the logits' sake, and a gain gives embeddings std 1
    again. What a family multiplies either of them by counts.
    """
    gains, start, (enters, leaves) = dict[str, float](), dict[str, float](), own_multipliers(base)
    for name, table in tables.items():
        std = 1 / (math.sqrt(base_width) * leaves if head is not None and table.weight is head.weight else enters)
        if std * enters != 1.0:
            gains[name] = 1 / (std * enters)
        if (enters, leaves) != (1.0, 1.0):
            start[f"{name}.weight"] = std
    return gains, start


def _small(model: nn.Module, section: HuggingFaceSection) -> dict[str, float]:
    """What is added to attention logits starts small: T5's relative positions as it has them, and attention sinks at
    zero, since a few random numbers, one for each head, would be another model at every width."""
    return {
        name: 0.0 if name.endswith(".sinks") else section.base_width**-0.5
        for name, _ in model.named_parameters()
        if name.endswith((".sinks", ".relative_attention_bias.weight"))
    }


def _growth(base: nn.Module, wider: nn.Module) -> dict[str, list[float]]:
    """`{parameter: by what each of its dimensions grows}` where the width doubles."""
    others = dict(wider.named_parameters(remove_duplicate=False))
    return {
        name: [after / before for before, after in zip(one.shape, others[name].shape, strict=True)]
        for name, one in base.named_parameters(remove_duplicate=False)
        if name in others and others[name].ndim == one.ndim
    }


def _roles(modules: Mapping[str, nn.Module], growth: Mapping[str, list[float]], readout: str) -> dict[str, Role]:
    """Roles that shapes cannot tell: of matrices of which one part grows and another does not, of numbers per channel
    and state, and of routers, which are readouts inside the network."""
    found: dict[str, Role] = {}
    for name, module in modules.items():
        kind, own = type(module).__name__, ".".join(name.split(".")[-2:])
        for parameter, tensor in module.named_parameters(recurse=False):
            role: Role | None = None
            grown = growth.get(f"{name}.{parameter}", [])
            if is_layer(module) and isinstance(module, nn.Conv1d) and module.groups > 1:
                role = "vector"
            elif is_layer(module) and not {1.0, 2.0}.issuperset(grown) and 1.0 not in grown:
                role = "hidden" if tensor.ndim > 1 else "vector"
            elif not is_layer(module) and parameter in _POSITIONS:
                role = "input"
            elif is_norm(module) or (not is_layer(module) and _PER_CHANNEL.search(parameter)):
                role = "vector"
            elif len(grown) == 2 and grown[0] == 1.0 < grown[1] and name != readout:
                role = "output" if _ROUTER.search(kind) or _ROUTER.search(own) else None
            if role is not None:
                found[f"{name}.{parameter}"] = role
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return "norm" in type(module).__name__.lower() and not is_layer(module)


def _layouts(modules: Mapping[str, nn.Module]) -> dict[str, Layout]:
    """Of matrices stacked in one tensor (E, rows, columns), one for each expert or head: which of the two is fan-in."""
    found: dict[str, Layout] = {}
    for name, module in modules.items():
        stacks = [] if is_layer(module) else [one for one, w in module.named_parameters(recurse=False) if w.ndim == 3]
        right: Collection[str] = _right_factors(inspect.unwrap(type(module).forward)) if stacks else ()
        for parameter in stacks:
            if parameter in right or getattr(module, "is_transposed", False):  # transformers' kernels read the latter
                found[f"{name}.{parameter}"] = "in_out"
            elif "Experts" in type(module).__name__:
                found[f"{name}.{parameter}"] = "out_in"
    return found


@functools.cache
def _right_factors(forward: Callable[..., object]) -> frozenset[str]:
    """Attributes of a module that its forward pass multiplies batches of matrices by from the right, as they are."""
    calls = (
        one for one in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(forward)))) if isinstance(one, ast.Call)
    )
    last = (ast.unparse(call.args[-1]) for call in calls if ast.unparse(call.func) in ("torch.bmm", "torch.baddbmm"))
    return frozenset(one.removeprefix("self.") for one in last)
