"""The JSON export against the model and the optimizer that are really built: every number, of every model kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mutransfer.errors import UsageError
from mutransfer.parametrization.apply import INPUT_MULTIPLIER, OUTPUT_MULTIPLIER
from mutransfer.testing.models import SCALES, maker
from mutransfer.training.learner import Learner
from mutransfer.training.tryout import try_out
from mutransfer.transfer.export import export_config
from tests.models.test_contract import CASES

# Every scale another number, so that no two can be mistaken for each other.
DISTINCT = {name: 1.0 + 0.125 * (1 + index) for index, name in enumerate(SCALES)}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.1, "beta1": 0.8, "eps": 1e-7},
    "sgd": {"weight_decay": 0.01, "momentum": 0.5},
    "muon": {"weight_decay": 0.1, "adam_lr": 0.002},
}
RULES = {"batch_size": {"base_batch_size": 2}, "horizon": {"base_steps": 3}}


def tied(case: str, model: dict[str, Any]) -> dict[str, Any] | None:
    """The change of a section that ties the embedding to the readout; None where it cannot."""
    if model["kind"] == "huggingface":
        return {"overrides": {"tie_word_embeddings": not case.endswith("gpt2")}}
    return {"tied_embeddings": True} if model["kind"] in ("gpt", "bert", "seq2seq") else None


def variants() -> list[tuple[str, str, bool]]:
    found = [
        (case, "adamw", tie) for case in CASES for tie in (False, True) if not tie or tied(case, CASES[case].model)
    ]
    return found + [(case, name, False) for case in ("gpt", "mlp") for name in ("sgd", "muon")]


@pytest.mark.parametrize(("case", "optimizer", "tie"), variants())
def test_every_number_is_that_of_the_built_model_and_its_optimizer(case, optimizer, tie, tmp_path):
    given = CASES[case]
    make = maker(given, tmp_path)
    change = {"width": 2 * int(given.model["base_width"]), **((tied(case, given.model) or {}) if tie else {})}
    rules = RULES if optimizer == "adamw" else {}
    hparams: dict[str, Any] = {"optimizer": optimizer, "lr": 0.01, **OPTIMIZERS[optimizer]}
    for name, value in DISTINCT.items():
        try:  # what is dead for this model is refused, some of it only when it is tried
            try_out(make(change, {**hparams, name: value}, rules=rules))
        except (ValidationError, UsageError):
            continue
        hparams[name] = value
    config = make(change, hparams, rules=rules)
    content = export_config(config, "json").settings
    learner = Learner(config, torch.device("cpu"))
    groups = {name: group for group in learner.optimizer.param_groups for name in group["names"]}
    modules = dict(learner.model.named_modules(remove_duplicate=False))
    rows = {row["name"]: row for row in content["parameters"]}
    assert rows.keys() == dict(learner.model.named_parameters(remove_duplicate=False)).keys()
    for name, row in rows.items():
        module, group = modules[name.rpartition(".")[0]], groups[row["tied_to"] or name]
        for buffer, key in ((INPUT_MULTIPLIER, "input_multiplier"), (OUTPUT_MULTIPLIER, "output_multiplier")):
            assert row[key] == pytest.approx(float(getattr(module, buffer, 1.0)), rel=1e-6), (name, key)
        for key in ("weight_decay", "eps", "betas", "momentum"):
            if row[key] is not None:  # torch's Muon has an eps of its own, which is not Adam's
                assert row[key] == group[key], (name, key)
        assert row["lr"] == group["peak_lr"], name
        std = row["init_std"]
        if std is not None:
            weight = dict(learner.model.named_parameters(remove_duplicate=False))[name]
            assert float(weight.detach().std()) == pytest.approx(std, rel=4 / weight.numel() ** 0.5), name
    buffers = {name: float(buffer) for name, buffer in learner.model.named_buffers() if buffer.numel() == 1}
    for kind in ("attention_scale", "residual_scale", "relative_scale"):
        built = {name.rpartition(".")[0]: value for name, value in buffers.items() if name.rpartition(".")[2] == kind}
        assert content[kind] == pytest.approx(built, rel=1e-6), kind
    if any(row["tied_to"] for row in rows.values()):
        gains = [row["output_multiplier"] for row in rows.values() if row["tied_to"] is None and row["role"] == "input"]
        assert max(gains) > given.model["base_width"] ** 0.5


def test_a_module_that_is_named_like_positions_and_is_none_gets_the_scale_of_embeddings(tmp_path):
    """`encoder.position` was taken for an embedding, by its name."""
    make = maker(CASES["seq2seq-learned"] if "seq2seq-learned" in CASES else CASES["seq2seq"], tmp_path)
    config = make({"positions": "learned"}, {"position_scale": 3.0, "embedding_scale": 5.0})
    rows = {row["name"]: row["output_multiplier"] for row in export_config(config, "json").settings["parameters"]}
    assert {rows[f"{stack}.position.weight"] for stack in ("encoder", "decoder")} == {3.0}
    assert {rows[f"{stack}.embedding.weight"] for stack in ("encoder", "decoder")} == {5.0}
