"""The `model:` section, one file per kind. The union `ModelSection` is the registry of models."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field

from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.config.models.bert import BERTSection
from mutransfer.config.models.command import CommandSection
from mutransfer.config.models.gpt import GPTSection
from mutransfer.config.models.huggingface import HuggingFaceSection
from mutransfer.config.models.mlp import MLPSection
from mutransfer.config.models.module import ModuleSection
from mutransfer.config.models.resnet import ResNetSection
from mutransfer.config.models.seq2seq import Seq2SeqSection

__all__ = [
    "BERTSection",
    "BaseModelSection",
    "CommandSection",
    "GPTSection",
    "HuggingFaceSection",
    "Loss",
    "MLPSection",
    "ModelSection",
    "ModuleSection",
    "ResNetSection",
    "Seq2SeqSection",
    "section_class",
]

ModelSection = Annotated[
    BERTSection
    | GPTSection
    | MLPSection
    | ResNetSection
    | Seq2SeqSection
    | ModuleSection
    | HuggingFaceSection
    | CommandSection,
    Field(discriminator="kind"),
]


def section_class(given: Any) -> type[BaseModelSection] | None:
    """The class of a `model:` section, given as plain data or as a section; None where its kind is unknown."""
    if isinstance(given, BaseModelSection):
        return type(given)
    kind = given.get("kind") if isinstance(given, dict) else None
    classes: tuple[type[BaseModelSection], ...] = get_args(get_args(ModelSection)[0])
    return next((one for one in classes if kind in get_args(one.model_fields["kind"].annotation)), None)
