"""On PYTHONPATH, it makes one worker fail once, at the step that MUTRANSFER_TEST_FAULT says: KIND:STEP:MARKER.

Kinds: `memory` asks torch for more memory than there is; `hang` sleeps for ever.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from mutransfer.executors import line

KIND, STEP, MARKER = os.environ["MUTRANSFER_TEST_FAULT"].split(":", 2)
steps = itertools.count(1)
beat = line.PipeLine.beat


def failing(self: line.PipeLine) -> None:
    """A beat, and in the process and at the step chosen the fault."""
    beat(self)
    if next(steps) < int(STEP):
        return
    try:
        Path(MARKER).touch(exist_ok=False)
    except FileExistsError:
        return
    if KIND == "memory":
        import torch

        torch.empty(1 << 55)
    while KIND == "hang":
        time.sleep(1)


line.PipeLine.beat = failing  # type: ignore[method-assign]
