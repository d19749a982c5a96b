"""Small configs that train in a fraction of a second, and paths to real data where it is at hand."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mutransfer.config.schema import RunConfig

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = "".join(f"line {number}: to be or not to be, {number * 37 % 101} times\n" for number in range(200))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Losses are compared bit by bit, which needs a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A small text file."""
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def gpt(corpus: Path) -> dict[str, Any]:
    """A gpt at its base width, as the plain data of a YAML file."""
    return {
        "name": "tiny-gpt",
        "model": {"kind": "gpt", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8},
        "data": {"kind": "text", "paths": [str(corpus)], "seq_len": 16},
        "training": {"steps": 12, "batch_size": 4, "eval_batches": 2},
        "hparams": {"lr": 0.01},
        "search": {
            "trials": 4,
            "confirm": {"top": 0},
            "space": {"lr": {"log_uniform": [1e-3, 1e-1]}, "temperature": {"log_uniform": [0.5, 2]}},
        },
    }


@pytest.fixture
def mlp() -> dict[str, Any]:
    """An mlp on digits at its base width, as the plain data of a YAML file."""
    pytest.importorskip("sklearn")
    return {
        "name": "tiny-mlp",
        "model": {"kind": "mlp", "width": 16, "base_width": 16, "depth": 2},
        "data": {"kind": "digits"},
        "training": {"steps": 12, "batch_size": 16, "eval_batches": 2},
        "hparams": {"optimizer": "sgd", "lr": 0.1},
        "search": {"trials": 4, "confirm": {"top": 0}, "space": {"lr": {"log_uniform": [1e-3, 1]}}},
    }


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in fp64, where only a mistake can differ."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for module in ("mutransfer.training.learner", "mutransfer.training.pack"):
        monkeypatch.setattr(
            f"{module}.to_device",
            lambda array, device: torch.from_numpy(array.astype(np.float64) if array.dtype == np.float32 else array),
        )
    yield
    torch.set_default_dtype(before)


def build(data: dict[str, Any], **changes: Any) -> RunConfig:
    """The config of plain data, with changes by dotted path written with `__`: `model__width=32`."""
    changed = copy.deepcopy(data)
    for path, value in changes.items():
        *sections, field = path.split("__")
        target = changed
        for section in sections:
            target = target.setdefault(section, {})
        target[field] = value
    return RunConfig.model_validate(changed)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write plain data as a YAML file and return its path."""

    def writer(data: dict[str, Any], name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return writer


def real_data(*parts: str) -> Path:
    """A file of the real data sets that lie beside the checkout on some machines; skips where they do not."""
    root = Path(os.environ.get("MUTRANSFER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path
