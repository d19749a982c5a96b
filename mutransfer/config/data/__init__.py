"""The `data:` section, one file per kind. The union `DataSection` is the registry of sources."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.data.base import AnySpec, BaseDataSection, ClassSpec, DataSpec, MaskedSpec, PairSpec, TokenSpec
from mutransfer.config.data.digits import DigitsSection
from mutransfer.config.data.huggingface import HuggingFaceDataSection, HuggingFaceImagesSection, HuggingFaceTextSection
from mutransfer.config.data.module import DataModuleSection
from mutransfer.config.data.none import NoneSection
from mutransfer.config.data.parquet_images import ParquetImagesSection
from mutransfer.config.data.text import TextSection
from mutransfer.config.data.tokenizer import TokenizerField, TokenizerSection
from mutransfer.config.data.tokens import TokensSection
from mutransfer.config.data.translation import TranslationSection

__all__ = [
    "AnySpec",
    "BaseDataSection",
    "ClassSpec",
    "DataModuleSection",
    "DataSection",
    "DataSpec",
    "DigitsSection",
    "HuggingFaceDataSection",
    "HuggingFaceImagesSection",
    "HuggingFaceTextSection",
    "MaskedSpec",
    "NoneSection",
    "PairSpec",
    "ParquetImagesSection",
    "TextSection",
    "TokenSpec",
    "TokenizerField",
    "TokenizerSection",
    "TokensSection",
    "TranslationSection",
]

DataSection = Annotated[
    TextSection
    | TokensSection
    | DigitsSection
    | ParquetImagesSection
    | HuggingFaceTextSection
    | HuggingFaceImagesSection
    | TranslationSection
    | DataModuleSection
    | NoneSection,
    Field(discriminator="kind"),
]
