"""Trainers, one per file. Imports no torch."""

from __future__ import annotations

from mutransfer.config.schema import RunConfig
from mutransfer.registry import Registry, subclass_of
from mutransfer.training.trainers.base import Trainer

TRAINERS: Registry[type[Trainer]] = Registry(
    "trainer",
    group="mutransfer.trainers",
    require=subclass_of(Trainer),
    built_in={
        "in-process": "mutransfer.training.trainers.in_process:InProcessTrainer",
        "command": "mutransfer.training.trainers.command:CommandTrainer",
    },
)


def trainer_of(config: RunConfig) -> Trainer:
    """The trainer of a config's runs.

    Raises `UsageError` if there is no trainer of that name, or its package cannot be imported.
    """
    return TRAINERS.load(config.trainer.name)()
