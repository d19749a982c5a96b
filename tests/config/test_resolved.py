"""A config written out and read back is the same config; differences and the hash see every change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutransfer.config.load import differences, dump_config, load_config, save_config, validate
from mutransfer.config.schema import RunConfig
from mutransfer.config.source import dump_yaml, parse_yaml
from tests.config.conftest import GPT, Load
from tests.conftest import build

PLAIN = parse_yaml(GPT, "config.yaml").data
POSITIVE = st.floats(min_value=5e-324, max_value=1e30)
PROVENANCE = {
    "study": "runs/tiny",
    "trial": 3,
    "proxy_width": 16,
    "proxy_loss": 1.5,
    "objective": "validation_loss",
    "seeds": {"search": 0, "training": 0},
    "config_hash": "0" * 12,
    "versions": {"torch": "2.9"},
}
TEXT = st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1)


def again(config: RunConfig, heading: str = "") -> RunConfig:
    return validate(parse_yaml(dump_config(config, heading=heading), "dumped.yaml"))


@settings(deadline=None, max_examples=60)
@given(
    lr=POSITIVE,
    scale=POSITIVE,
    clip=st.none() | POSITIVE,
    warmup=st.floats(min_value=0, max_value=1, exclude_max=True),
    choice=st.lists(POSITIVE | st.none(), min_size=1, unique=True),
    paths=st.lists(TEXT, min_size=1),
    seed=st.integers(min_value=0, max_value=2**31 - 1),
)
def test_a_dump_reads_back_as_the_same_config_to_the_last_bit(
    lr: float, scale: float, clip: float | None, warmup: float, choice: list[Any], paths: list[str], seed: int
) -> None:
    config = build(
        PLAIN, hparams__lr=lr, hparams__init_scale=scale, hparams__clip=clip, hparams__warmup=warmup,
        search__space={"clip": {"choice": choice}}, data__paths=paths, training__seed=seed,
    )  # fmt: skip
    assert again(config, heading="two\nlines") == config
    assert again(config).hash() == config.hash()
    assert differences(config, again(config)) == []


def test_a_dump_has_every_default_and_its_heading(tmp_path: Path) -> None:
    path = tmp_path / "saved.yaml"
    save_config(build(PLAIN), path, heading="made by hand\nfor a test")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# made by hand\n# for a test\nname: tiny\n")
    for line in ("parametrization: mup", "  batch_size: 16", "  divergence_factor: 3.0", "  schedule: cosine"):
        assert line in text.splitlines()
    assert load_config(path) == build(PLAIN)


@pytest.mark.parametrize("kind", ["powers", "choice", "provenance"])
def test_sections_with_structure_survive_the_dump(kind: str) -> None:
    config = {
        "powers": build(PLAIN, search__space={"lr": {"powers": {"scale": 5e-4, "start": -1.5, "stop": 1.25}}}),
        "choice": build(PLAIN, search__space={"schedule": {"choice": ["constant", "step"]}}),
        "provenance": build(PLAIN, provenance=PROVENANCE),
    }[kind]
    assert again(config) == config


CHANGES: list[tuple[str, Any, str]] = [
    ("model__width", 32, "model.width: 16 → 32"),
    ("model__zero_readout", True, "model.zero_readout: not set → True"),
    ("parametrization", "sp", "parametrization: mup → sp"),
    ("data__paths", ["b.txt"], "data.paths: ['a.txt'] → ['b.txt']"),
    ("data__validation_fraction", 0.25, "data.validation_fraction: 0.1 → 0.25"),
    ("training__seed", 1, "training.seed: 0 → 1"),
    ("training__precision", "bf16", "training.precision: fp32 → bf16"),
    ("hparams__lr", 0.02, "hparams.lr: 0.01 → 0.02"),
    ("hparams__clip", 1.0, "hparams.clip: not set → 1.0"),
    ("search__seed", 1, "search.seed: 0 → 1"),
    ("search__space__lr", {"log_uniform": [1e-3, 0.2]}, "search.space.lr.log_uniform: [0.001, 0.1] → [0.001, 0.2]"),
]


@pytest.mark.parametrize(("path", "value", "line"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_changed_field_is_told_as_old_and_new_and_changes_the_hash(path: str, value: Any, line: str) -> None:
    old, new = build(PLAIN), build(PLAIN, **{path: value})
    assert differences(old, new) == [line]
    assert new.hash() != old.hash()


def test_differences_leave_out_ignored_fields_and_sections() -> None:
    old = build(PLAIN)
    new = build(PLAIN, name="other", training__steps=5, search__trials=9, search__seed=2)
    assert differences(old, new, ignore=("name", "search.trials", "training")) == ["search.seed: 0 → 2"]
    assert differences(old, new, ignore=("name", "search", "training")) == []


def test_the_hash_forgets_the_name_the_provenance_and_the_order_of_keys(load: Load) -> None:
    swept = GPT + "    warmup: {uniform: [0, 0.5]}\n"
    first, *rest = re.split(r"\n(?=\S)", swept.strip())
    shuffled = re.sub(r"( +lr: .*)\n( +warmup: .*)", r"\2\n\1", "\n".join([*reversed(rest), first]))
    original = load(swept)
    other = build(load(shuffled).resolved(), name="other", provenance=PROVENANCE)
    assert list(other.require_search().space) == ["warmup", "lr"]
    assert other.hash() == original.hash()
    assert re.fullmatch(r"[0-9a-f]{12}", original.hash())


def test_a_text_that_looks_like_a_number_stays_a_text():
    for text in ("0E0", "1e5", "012", "1:30", ".5", "1_000", "0x1F", ".inf"):
        assert parse_yaml(dump_yaml({"path": text}), "dumped").data == {"path": text}
