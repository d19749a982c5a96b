"""The coordinate check's numbers in the log of Hugging Face's `Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mutransfer.integrations.probe import CoordinateProbe


class HuggingFaceCoordinates(TrainerCallback):
    """Logs a probe's numbers with `trainer.log`, so that every tracker of the trainer gets them.

    It is given to a trainer that is there already: `trainer.add_callback(HuggingFaceCoordinates(trainer, probe))`.
    The change is that since training began, or since it was resumed.
    """

    def __init__(self, trainer: Trainer, probe: CoordinateProbe) -> None:
        self._trainer, self._probe = trainer, probe

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Look before the first step."""
        self._trainer.log(self._probe.look(rest["model"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Look after every n-th update of the weights."""
        if state.global_step % self._probe.every == 0:
            self._trainer.log(self._probe.look(rest["model"]))
