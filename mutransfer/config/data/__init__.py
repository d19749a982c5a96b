"""The `data:` section, one file per kind. The union `DataSection` is the registry of sources."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.data.base import AnySpec, BaseDataSection, ClassSpec, DataSpec, TokenSpec
from mutransfer.config.data.digits import DigitsSection
from mutransfer.config.data.module import DataModuleSection
from mutransfer.config.data.parquet_images import ParquetImagesSection
from mutransfer.config.data.text import TextSection
from mutransfer.config.data.tokens import TokensSection

__all__ = [
    "AnySpec",
    "BaseDataSection",
    "ClassSpec",
    "DataModuleSection",
    "DataSection",
    "DataSpec",
    "DigitsSection",
    "ParquetImagesSection",
    "TextSection",
    "TokenSpec",
    "TokensSection",
]

DataSection = Annotated[
    TextSection | TokensSection | DigitsSection | ParquetImagesSection | DataModuleSection,
    Field(discriminator="kind"),
]
