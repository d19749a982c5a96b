"""The coordinate check's numbers in the loggers of Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mutransfer.integrations.probe import CoordinateProbe


class LightningCoordinates(Callback):
    """Sends a probe's numbers to every logger of the trainer: `Trainer(callbacks=[LightningCoordinates(probe)])`.

    The probe's batch is what the module's `forward` takes. The change is that since training began, or since it was
    resumed.
    """

    def __init__(self, probe: CoordinateProbe) -> None:
        self._probe, self._step = probe, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the first step."""
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look after every n-th update of the weights; several batches may make one."""
        if trainer.global_step % self._probe.every == 0 and trainer.global_step != self._step:
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        self._step = trainer.global_step
        numbers = self._probe.look(module)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=self._step)
