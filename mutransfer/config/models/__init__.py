"""The `model:` section, one file per kind. The union `ModelSection` is the registry of models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.config.models.gpt import GPTSection
from mutransfer.config.models.huggingface import HuggingFaceSection
from mutransfer.config.models.mlp import MLPSection
from mutransfer.config.models.module import ModuleSection

__all__ = [
    "BaseModelSection",
    "GPTSection",
    "HuggingFaceSection",
    "Loss",
    "MLPSection",
    "ModelSection",
    "ModuleSection",
]

ModelSection = Annotated[
    GPTSection | MLPSection | ModuleSection | HuggingFaceSection,
    Field(discriminator="kind"),
]
