"""What was found fastest on this machine, kept in the user's cache: a sweep like an earlier one need not measure again.

Alike are sweeps whose steps cost the same: of the same model, data and batches, in the same number of trials, on the
same devices with the same torch. Hparams other than the optimizer, and seeds, cost nothing.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mutransfer.config.schema import RunConfig
from mutransfer.data.cache import cache_folder, cache_key
from mutransfer.errors import UsageError
from mutransfer.executors.devices import Device, cores
from mutransfer.files import make_folder, read_json, write_json

_LOG = logging.getLogger(__name__)
# A measurement on a busy machine should not count for ever.
_SECONDS = 7 * 24 * 3600.0


class _Finding(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    why: str
    """The reason, as a sentence."""


class FoundPacking(_Finding):
    """The result of `measure.measure_packing`."""

    size: int = Field(ge=1, le=128)
    """Trials at once; 1 is one by one."""
    seconds: float | None = Field(gt=0)
    """Of a step of such a pack."""


class FoundWorkers(_Finding):
    """The result of `workers.arrange_workers`."""

    workers: int = Field(ge=1, le=1 << 12)
    threads: int = Field(ge=1, le=1 << 12)


F = TypeVar("F", bound=_Finding)


class _Kept(BaseModel, Generic[F]):
    at: float
    """When it was found, in seconds since the epoch."""
    found: F


def machine_is_busy() -> bool:
    """Whether other programs use so much of this machine that a measurement is not worth keeping."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > cores() / 2


class Remembered:
    """The findings for one config on these devices."""

    def __init__(self, config: RunConfig, devices: Sequence[Device], *, trials: int) -> None:
        search = config.require_search()
        training = config.training.model_dump(mode="json", exclude={"seed", "steps"})
        self._key = cache_key(
            [version("torch"), version("mutransfer"), platform.node(), platform.machine(), cores()],
            [asdict(device) for device in devices],
            [*(part.model_dump(mode="json") for part in (config.model, config.data)), training, config.parametrization],
            [config.hparams.record.name, config.hparams.clip is None, trials],
            None if search.pruner is None else search.pruner.model_dump(mode="json"),
        )

    def get(self, kind: type[F]) -> F | None:
        """The remembered finding; None where there is none, or it is too old or invalid."""
        try:
            kept = read_json(self._path(kind), _Kept[kind], advice="")  # type: ignore[valid-type]
        except UsageError:
            return None
        # After the clock has jumped back, the age is unknown.
        return kept.found if 0 <= time.time() - kept.at < _SECONDS else None

    def put(self, found: _Finding) -> None:
        """Keep a finding; where the cache cannot be written, the next sweep measures again."""
        path = self._path(type(found))
        try:
            make_folder(path.parent)
            write_json(path, _Kept(at=time.time(), found=found).model_dump())
        except UsageError as error:
            _LOG.info("not remembered: %s", error)

    def _path(self, kind: type[_Finding]) -> Path:
        return cache_folder() / "shapes" / f"{self._key}-{kind.__name__}.json"
