"""Every number of the schema has a largest value, and what is larger is refused where it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mutransfer.config.schema import RunConfig
from tests.config.conftest import FILE, GPT, Refuse, edited


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield path, node
        for key, value in node.items():
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers(value, f"{path}/{index}")


# Lists that may hold text as well, which a validator looks through; and a fraction, which is one.
CHECKED = ("Distribution/properties/choice", "SearchSection/properties/across", "width_fields")


def test_every_number_of_the_schema_has_a_largest_value():
    found = [one for one in numbers(RunConfig.model_json_schema()) if not any(text in one[0] for text in CHECKED)]
    assert len(found) > 100
    assert [path for path, node in found if not {"maximum", "exclusiveMaximum", "enum"} & set(node)] == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("steps: 12", "steps: 1000000000000000000", "4: training.steps: must be <= 1000000000"),
        ("steps: 12", f"batch_size: 1{'0' * 39}", "4: training.batch_size: must be <= 10000000"),
        ("trials: 4", "trials: 1000000000", "7: search.trials: must be <= 100000"),
        ("trials: 4", "hang_after: 1e300", "7: search.hang_after: must be <= 100000000"),
        ("lr: 0.01", "lr: 1e300", "5: hparams.lr: must be <= 1e+30"),
        ("[1e-3, 1e-1]", "[1e-3, 1e300]", "9: search.space.lr.log_uniform.1: must be <= 1e+30"),
        ("{log_uniform: [1e-3, 1e-1]}", "{choice: [1e300]}", "9: search.space.lr.choice.0: must be between"),
        ("{log_uniform: [1e-3, 1e-1]}", "{choice: [.nan]}", "9: search.space.lr.choice.0: must be between"),
        ("  trials: 4", "  across: {model.width: [16, 1e31]}", "7: search.across.model.width.1: must be between"),
        ("depth: 1", f"depth: 1{'0' * 20}", "2: model.depth: must be <= 10000"),
    ],
)
def test_a_number_that_nobody_means_is_refused(refuse: Refuse, old: str, new: str, where: str) -> None:
    assert refuse(edited(GPT, old, new)).startswith(f"{FILE}:{where}")


@pytest.mark.parametrize("factor", ["1e999999999", "1/0", "-1", "nan", "9" * 30, "1/" + "9" * 30, "", "x"])
def test_a_width_field_is_a_small_fraction(refuse: Refuse, factor: str) -> None:
    model = (
        f"{{kind: huggingface, config: x, width: 16, base_width: 16, width_fields: {{intermediate_size: '{factor}'}}}}"
    )
    text = edited(GPT, "{kind: gpt, width: 16, base_width: 16, depth: 1, head_dim: 8}", model)
    assert "2: model.width_fields.intermediate_size: must be a positive number or a fraction as 1/64" in refuse(text)


@pytest.mark.parametrize("pattern", ["(" * 5000, "(a{99999999999999999999})", "["])
def test_a_regular_expression_that_cannot_be_compiled_is_refused(refuse: Refuse, pattern: str) -> None:
    command = f"{{kind: command, width: 1, base_width: 1, command: ['{{width}}'], loss_from: {{regex: '{pattern}'}}}}"
    assert "is not a regular expression" in refuse(f"name: x\nmodel: {command}\n")
