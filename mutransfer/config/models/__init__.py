"""The `model:` section, one file per kind. The union `ModelSection` is the registry of models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.config.models.command import CommandSection
from mutransfer.config.models.gpt import GPTSection
from mutransfer.config.models.mlp import MLPSection

__all__ = ["BaseModelSection", "CommandSection", "GPTSection", "Loss", "MLPSection", "ModelSection"]

ModelSection = Annotated[GPTSection | MLPSection | CommandSection, Field(discriminator="kind")]
