"""A module of the user's own, made by their factory.

Nothing about the code is changed. A hook on the outermost module hands on the logits where it returns an object that
holds them, as Hugging Face's models do; the project's own multipliers are hooks and buffers as for any model.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.factory import call_factory
from mutransfer.config.models import ModuleSection
from mutransfer.errors import PlanError
from mutransfer.parametrization.facts import ModelFacts, carry, facts_of


def build(section: ModuleSection, spec: DataSpec) -> nn.Module:
    """The module that the section's factory makes.

    What the module draws while it is made is the same at every call, so that a run is a function of its config.

    Raises:
        ConfigError: there is no such factory, it does not take an argument of the section, or it raised.
        PlanError: it returned no module.
    """
    devices: list[int] | None = [] if torch.get_default_device().type != "cuda" else None
    offers = {**asdict(spec), "base_width": section.base_width}
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = call_factory(
            "model.factory",
            section.factory,
            {"width": section.width, **(section.model_extra or {})},
            offers,
            type(section).model_fields,
        )
    model, returned = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
    if not isinstance(model, nn.Module):
        raise PlanError(f"model.factory: {section.factory} returned {_article(model)}, and not a torch.nn.Module")
    if returned is not None and not isinstance(returned, ModelFacts):
        raise PlanError(f"model.factory: {section.factory} returned {_article(returned)} beside the module, and not a "
                        "mutransfer.ModelFacts")  # fmt: skip
    facts = returned or facts_of(model)
    carry(
        model,
        facts.extended(
            readouts=section.readouts,
            roles=section.roles,
            init_std=section.init_std,
            as_made=section.as_made,
            finite=section.finite,
        ),
    )
    hand_on_logits(model, section.factory)
    return model


def hand_on_logits(model: nn.Module, label: str) -> None:
    """Make the outermost module return a tensor: its output, or the `logits` of its output."""

    def hand_on(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        del module, inputs
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if found is None and isinstance(output, dict):
            found = output.get("logits")
        if not isinstance(found, Tensor):
            raise PlanError(
                f"{label}: the module's forward returned {_article(output)}; it has to return the logits (or the loss, "
                "with model.loss returned) as a tensor, or an object with a tensor `logits`"
            )
        return found

    model.register_forward_hook(hand_on)


def _article(value: object) -> str:
    name = "nothing (None)" if value is None else f"a {type(value).__name__}"
    return f"{name} of {len(value)}" if isinstance(value, list | tuple) else name
