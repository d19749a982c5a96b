"""Metrics beside the loss: when they are measured, where they are kept, and BLEU itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mutransfer.data import load_data
from mutransfer.errors import DataError
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.training.bleu import bleu, translations
from mutransfer.training.folder import TrainFolder
from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks, fit, fit_pack
from mutransfer.training.losses import MetricsFile
from mutransfer.training.run import train
from tests.conftest import build

pytest.importorskip("sacrebleu")
CPU = torch.device("cpu")


class Measuring(Hooks):
    def measures(self) -> bool:
        return True


def test_a_model_that_has_learned_scores_and_one_that_has_not_does_not(pairs: dict[str, Any]) -> None:
    config = build(pairs, training__steps=400, training__batch_size=16, hparams__lr=0.02, model__width=32)
    result = fit(config, MetricsFile(None), Measuring())
    assert result.metrics["bleu"] > 60
    untrained = Learner(config, CPU).model
    assert bleu(config, untrained, load_data(config.data), CPU) < 5


def test_bleu_is_sacrebleus_of_what_is_translated(pairs: dict[str, Any]) -> None:
    import sacrebleu

    config = build(pairs, training__steps=60, hparams__lr=0.02)
    learner, data = Learner(config, CPU), load_data(config.data)
    for step in range(60):
        learner.train_step(step, data.batch(step, batch_size=16, seed=0))
    found = translations(config, learner.model.eval(), data, CPU)
    references = data.held.references  # type: ignore[attr-defined]
    assert len(found) == len(references) == 12
    score = sacrebleu.corpus_bleu(found, [references]).score
    assert bleu(config, learner.model, data, CPU) == pytest.approx(score)
    few = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"examples": 3})})
    assert translations(few, learner.model, data, CPU) == found[:3]


def test_training_measures_and_keeps_it_and_resuming_finds_it(pairs: dict[str, Any], tmp_path: Path) -> None:
    config, folder = build(pairs), TrainFolder(tmp_path / "run")
    result = train(config, folder)
    assert set(result.metrics) == {"bleu"}
    assert json.loads(folder.result.read_text())["metrics"] == result.metrics
    assert train(config, folder, resume=True) == result


def test_beam_and_examples_change_what_is_measured(pairs: dict[str, Any]) -> None:
    config = build(pairs, training__steps=40, hparams__lr=0.02)
    learner, data = Learner(config, CPU), load_data(config.data)
    for step in range(40):
        learner.train_step(step, data.batch(step, batch_size=16, seed=0))

    def measured(**changes: Any) -> list[str]:
        changed = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})
        return translations(changed, learner.model.eval(), data, CPU)

    assert len(measured(examples=5)) == 5
    assert measured(beam=1) != measured(beam=8)


def test_trials_are_measured_only_when_asked_packed_or_not(pairs: dict[str, Any]) -> None:
    plain = [build(pairs, training__steps=40, hparams__lr=lr) for lr in (0.01, 0.03)]
    asked = [build(pairs, training__steps=40, hparams__lr=lr, evaluation__trials=True) for lr in (0.01, 0.03)]
    files = [MetricsFile(None)] * 2
    assert [result.metrics for result in fit_pack(plain, files, Hooks())] == [{}, {}]
    alone = fit_pack(asked, files, Hooks(), packed=False)
    packed = fit_pack(asked, files, Hooks())
    assert [one.metrics for one in packed] == [pytest.approx(one.metrics) for one in alone]
    assert packed[0].metrics != packed[1].metrics


def test_measuring_gives_signs_of_life(pairs: dict[str, Any]) -> None:
    """Translating takes longer than a step, and who is silent is taken for hung."""

    class Counting(Hooks):
        calls = 0

        def alive(self) -> None:
            self.calls += 1

    silent, measured = Counting(), Counting()
    files = [MetricsFile(None)] * 2
    for hooks, wanted in ((silent, False), (measured, True)):
        config = build(pairs, training__steps=2, evaluation__trials=wanted)
        fit_pack([config, config], files, hooks)
    assert measured.calls >= silent.calls + 2  # a batch of sentences for each member


def test_a_sweep_lists_them_with_its_trials(pairs: dict[str, Any], tmp_path: Path) -> None:
    config = build(pairs, evaluation__trials=True, training__steps=4, search__trials=2)
    result = run_sweep(config, runs=tmp_path, pack=1, executor=lambda: InlineExecutor(Device("cpu", "cpu", 1)))
    assert all(set(record.metrics or {}) == {"bleu"} for record in result.records)
    head, *rows = result.folder.table.read_text().splitlines()
    column = head.split(",").index("bleu")
    assert [float(row.split(",")[column]) for row in rows] == [record.metrics["bleu"] for record in result.records]


def test_a_missing_package_is_said_before_the_training(
    pairs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(DataError, match=r"extra 'translation'.*or set evaluation.metrics to \[\]"):
        train(build(pairs), TrainFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    result = train(build(pairs, evaluation__metrics=[]), TrainFolder(tmp_path / "run"))
    assert result.metrics == {}


def test_what_measures_nothing_is_refused(pairs: dict[str, Any], gpt: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="rouge is not a metric of kind seq2seq; it has bleu"):
        build(pairs, evaluation__metrics=["rouge"])
    with pytest.raises(ValidationError, match="kind gpt has no metrics"):
        build(gpt, evaluation__beam=2)
