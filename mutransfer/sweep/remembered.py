"""What was found fastest on this machine, kept in the user's cache: a sweep like an earlier one need not measure again.

Alike are sweeps whose steps cost the same: of the same model, data and batches, in the same number of trials, on the
same devices with the same torch. Hparams other than the optimizer, and seeds, cost nothing.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.data.cache import cache_folder, cache_key
from mutransfer.errors import UsageError
from mutransfer.executors.devices import Device, cores
from mutransfer.files import make_folder, write_json

_LOG = logging.getLogger(__name__)
# What was measured while something else kept the machine busy should not count for ever.
_SECONDS = 7 * 24 * 3600.0


class Remembered:
    """The findings for one config on these devices."""

    def __init__(self, config: RunConfig, devices: Sequence[Device], *, trials: int) -> None:
        search = config.require_search()
        training = config.training.model_dump(mode="json", exclude={"seed", "steps"})
        self._key = cache_key(
            [version("torch"), version("mutransfer"), platform.node(), platform.machine(), cores()],
            [asdict(device) for device in devices],
            [
                config.model.model_dump(mode="json"),
                config.data.model_dump(mode="json"),
                training,
                config.parametrization,
            ],
            [config.hparams.optimizer, config.hparams.clip is None, trials],
            None if search.pruner is None else search.pruner.model_dump(mode="json"),
        )

    def get(self, what: str) -> dict[str, Any] | None:
        """What was found; None where nothing was, long ago, or cannot be read."""
        try:
            found = json.loads(self._path(what).read_text(encoding="utf-8"))
            # Of a clock that has jumped back nothing is known.
            known = found["found"] if 0 <= time.time() - float(found["at"]) < _SECONDS else None
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return known if isinstance(known, dict) else None

    def put(self, what: str, found: dict[str, Any]) -> None:
        """Keep a finding; where the cache cannot be written the next sweep measures."""
        path = self._path(what)
        try:
            make_folder(path.parent)
            write_json(path, {"at": time.time(), "found": found})
        except UsageError as error:
            _LOG.info("not remembered: %s", error)

    def _path(self, what: str) -> Path:
        return cache_folder() / "shapes" / f"{self._key}-{what}.json"
