"""Checkpoints: whole or absent, loaded without unpickling code."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_model
from typing_extensions import TypedDict

from mutransfer.config.base import MOST_STEPS
from mutransfer.errors import UsageError
from mutransfer.files import open_file, replacing, write_atomic
from mutransfer.messages import first_problem


class Checkpoint(TypedDict):
    """What a checkpoint holds."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    step: Annotated[int, Field(gt=0, le=MOST_STEPS)]
    """Steps done."""
    data: str
    """The data's fingerprint."""
    plan: str
    """The plan's fingerprint."""
    model: dict[str, Any]
    optimizer: dict[str, Any]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain data; older checkpoints beside it are removed after the new one is complete.

    Raises `UsageError` if the disk refuses.
    """
    write_atomic(path, functools.partial(torch.save, state))
    for older in path.parent.glob("step-*.pt"):
        if older.name < path.name:
            older.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint.

    Raises `UsageError` if it is truncated, damaged, or holds anything but tensors and plain data.
    """
    try:
        with open_file(path, "rb") as file:
            state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, OSError, KeyError, …
        # Not torch's own message, which advises to load the file unsafely.
        raise UsageError(
            f"{path}: checkpoint cannot be read, it may be truncated ({type(error).__name__}); remove its run folder "
            "to train from the start"
        ) from error
    try:
        return dict(TypeAdapter(Checkpoint).validate_python(state))
    except ValidationError as error:
        raise UsageError(f"{path}: is not a checkpoint of mutransfer ({first_problem(error)})") from None


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write the plain state dict as safetensors, tied tensors once, whole or not at all."""
    with replacing(path) as temporary:
        save_model(model, str(temporary))
