"""The `model:` section, one file per kind. The union `ModelSection` is the registry of models."""

from __future__ import annotations

from typing import Annotated

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
