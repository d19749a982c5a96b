"""The `data:` section, one file per kind; `DATA_SOURCES` is their registry."""

from __future__ import annotations

from mutransfer.config.base import section_of
from mutransfer.config.data.base import (
    AnyDataSection,
    AnySpec,
    BaseDataSection,
    ClassSpec,
    DataSpec,
    MaskedSpec,
    PairSpec,
    TokenSpec,
)
from mutransfer.config.data.digits import DigitsSection
from mutransfer.config.data.huggingface import HuggingFaceDataSection, HuggingFaceImagesSection, HuggingFaceTextSection
from mutransfer.config.data.module import DataModuleSection
from mutransfer.config.data.none import NoneSection
from mutransfer.config.data.parquet_images import ParquetImagesSection
from mutransfer.config.data.text import TextSection
from mutransfer.config.data.tokenizer import TokenizerField, TokenizerSection
from mutransfer.config.data.tokens import TokensSection
from mutransfer.config.data.translation import TranslationSection
from mutransfer.registry import Registry

__all__ = [
    "DATA_SOURCES",
    "AnyDataSection",
    "AnySpec",
    "BaseDataSection",
    "ClassSpec",
    "DataModuleSection",
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

DATA_SOURCES: Registry[type[BaseDataSection]] = Registry(
    "data kind",
    group="mutransfer.data_sources",
    require=section_of(AnyDataSection),
    built_in={
        "text": "mutransfer.config.data.text:TextSection",
        "tokens": "mutransfer.config.data.tokens:TokensSection",
        "digits": "mutransfer.config.data.digits:DigitsSection",
        "parquet-images": "mutransfer.config.data.parquet_images:ParquetImagesSection",
        "huggingface-text": "mutransfer.config.data.huggingface:HuggingFaceTextSection",
        "huggingface-images": "mutransfer.config.data.huggingface:HuggingFaceImagesSection",
        "translation": "mutransfer.config.data.translation:TranslationSection",
        "module": "mutransfer.config.data.module:DataModuleSection",
        "none": "mutransfer.config.data.none:NoneSection",
    },
)
