"""The `model:` section, one file per kind; `MODELS` is their registry."""

from __future__ import annotations

from mutransfer.config.base import section_of
from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.config.models.bert import BERTSection
from mutransfer.config.models.command import CommandSection
from mutransfer.config.models.gpt import GPTSection
from mutransfer.config.models.huggingface import HuggingFaceSection
from mutransfer.config.models.mlp import MLPSection
from mutransfer.config.models.module import ModuleSection
from mutransfer.config.models.resnet import ResNetSection
from mutransfer.config.models.seq2seq import Seq2SeqSection
from mutransfer.registry import Registry

__all__ = [
    "MODELS",
    "BERTSection",
    "BaseModelSection",
    "CommandSection",
    "GPTSection",
    "HuggingFaceSection",
    "Loss",
    "MLPSection",
    "ModuleSection",
    "ResNetSection",
    "Seq2SeqSection",
]

MODELS: Registry[type[BaseModelSection]] = Registry(
    "model kind",
    group="mutransfer.models",
    require=section_of(BaseModelSection),
    built_in={
        "bert": "mutransfer.config.models.bert:BERTSection",
        "gpt": "mutransfer.config.models.gpt:GPTSection",
        "mlp": "mutransfer.config.models.mlp:MLPSection",
        "resnet": "mutransfer.config.models.resnet:ResNetSection",
        "seq2seq": "mutransfer.config.models.seq2seq:Seq2SeqSection",
        "module": "mutransfer.config.models.module:ModuleSection",
        "huggingface": "mutransfer.config.models.huggingface:HuggingFaceSection",
        "command": "mutransfer.config.models.command:CommandSection",
    },
)
