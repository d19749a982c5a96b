"""What every trainer must do. Subclass `TrainerContract` with a fixture `case`, and pytest runs every test:

class TestMyTrainer(TrainerContract):
    @pytest.fixture
    def case(self, tmp_path): return TrainerCase(config={...}, diverging={...}, lasting={...}, ...)
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.errors import MutransferError, PlanError, UsageError
from mutransfer.executors.base import Job, JobFailed
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.files import make_folder
from mutransfer.models import plan_of
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.sweep.trial import run_trials
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.losses import read_metrics
from mutransfer.training.run import train
from mutransfer.training.trainers import TRAINERS, trainer_of
from mutransfer.training.trainers.base import TrialWatch
from mutransfer.transfer.cost import estimate

_CPU = Device("cpu", "cpu", 1)


@dataclass(frozen=True)
class TrainerCase:
    """Configs of one trainer, as the plain data of a YAML file. None of them has a search section."""

    config: dict[str, Any]
    """Completes within seconds. It passes `hparams.lr` on, `training.seed` and `training.steps` too."""
    diverging: dict[str, Any]
    """Diverges."""
    lasting: dict[str, Any]
    """Reports a first loss, and goes on for a second or more. Completes when it is continued."""
    impossible: dict[str, Any]
    """A valid config that the trainer refuses: its data or its program does not exist."""
    failing: dict[str, Any]
    """Fails while it trains."""


class TrainerContract:
    """The tests."""

    def test_the_registry_has_it_with_the_same_facts(self, case: TrainerCase) -> None:
        facts = _config(case.config).trainer
        assert TRAINERS.load(facts.name).facts is facts

    def test_a_run_that_completes_leaves_config_losses_and_result(self, case: TrainerCase, tmp_path: Path) -> None:
        config, folder = _config(case.config), TrainFolder(tmp_path / "run")
        result = train(config, folder)
        assert result.outcome == "completed"
        assert result.validation_loss is not None
        assert math.isfinite(result.validation_loss)
        assert load_config(folder.config) == config
        assert list(read_metrics(folder.metrics))
        assert folder.read_result() == result
        assert train(config, folder, resume=True) == result

    def test_a_run_that_diverges_has_no_loss(self, case: TrainerCase, tmp_path: Path) -> None:
        folder = TrainFolder(tmp_path / "run")
        result = train(_config(case.diverging), folder)
        assert (result.outcome, result.validation_loss) == ("diverged", None)
        assert folder.read_result() == result

    def test_an_interrupted_run_can_be_continued_where_the_trainer_says_so(
        self, case: TrainerCase, tmp_path: Path
    ) -> None:
        config, folder = _config(case.lasting), TrainFolder(tmp_path / "run")
        seen: list[float] = []
        stopped = train(config, folder, should_stop=lambda: bool(seen), on_progress=lambda news: seen.append(news.loss))
        assert stopped.outcome == "interrupted"
        assert folder.read_result() == stopped
        before = list(read_metrics(folder.metrics))
        assert before
        with pytest.raises(UsageError, match="holds a run already"):
            train(config, folder)
        if not config.trainer.resumes:
            with pytest.raises(UsageError, match="cannot continue"):
                train(config, folder, resume=True)
            return
        done = train(config, folder, resume=True)
        assert done.outcome == "completed"
        assert done.steps > stopped.steps
        assert list(read_metrics(folder.metrics))[: len(before)] == before

    def test_a_run_that_cannot_work_is_refused_and_nothing_is_written(self, case: TrainerCase, tmp_path: Path) -> None:
        with pytest.raises(MutransferError):
            train(_config(case.impossible), TrainFolder(tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_a_sweep_that_cannot_work_is_refused_and_nothing_is_written(
        self, case: TrainerCase, tmp_path: Path
    ) -> None:
        with pytest.raises(MutransferError):
            run_sweep(_swept(case.impossible), runs=tmp_path / "runs", executor=lambda: InlineExecutor(_CPU))
        assert not (tmp_path / "runs").exists()

    def test_a_sweep_trains_every_trial(self, case: TrainerCase, tmp_path: Path) -> None:
        result = run_sweep(
            _swept(case.config), runs=tmp_path / "runs", executor=lambda: InlineExecutor(_CPU), pack=1, arrange=False
        )
        assert [record.outcome for record in result.records] == ["completed", "completed"]

    def test_trials_come_back_in_order_as_plain_data_and_leave_their_losses(
        self, case: TrainerCase, tmp_path: Path
    ) -> None:
        configs, folders = [_config(case.diverging), _config(case.config)], [tmp_path / "a", tmp_path / "b"]
        found = [
            run_trials(_CPU, configs=[config.resolved()], folders=[str(folder)], packed=False)
            for config, folder in zip(configs, folders, strict=True)
        ]
        assert json.loads(json.dumps(found)) == found
        assert [TrainResult(**one[0]).outcome for one in found] == ["diverged", "completed"]
        assert all(list(read_metrics(folder / "metrics.jsonl")) for folder in folders)

    def test_a_trial_that_fails_says_its_last_lines(self, case: TrainerCase, tmp_path: Path) -> None:
        arguments = {"configs": [case.failing], "folders": [str(tmp_path / "trial")], "packed": False}
        with pytest.raises(JobFailed) as caught:
            InlineExecutor(_CPU).submit(Job("mutransfer.sweep.trial:run_trials", arguments)).result()
        assert caught.value.traceback.strip()

    def test_the_warm_up_writes_nothing(self, case: TrainerCase, tmp_path: Path, monkeypatch: Any) -> None:
        config = _config(case.config)
        monkeypatch.chdir(make_folder(tmp_path / "empty"))
        trainer_of(config).warm_up(config, threads=1)
        assert not list((tmp_path / "empty").iterdir())

    def test_it_packs_trials_or_refuses_to(self, case: TrainerCase, tmp_path: Path) -> None:
        config = _config(case.config)
        if not config.trainer.packs:
            with pytest.raises(UsageError, match="--pack 2"):
                run_sweep(_swept(case.config), runs=tmp_path / "runs", pack=2)
            assert not (tmp_path / "runs").exists()
            return
        other = config.with_hparams({"lr": (config.hparams.resolved("lr") or 1.0) / 2})

        def losses(configs: list[RunConfig], name: str) -> list[tuple[float | None, float | None]]:
            folders = [tmp_path / name / str(k) for k in range(len(configs))]
            results = trainer_of(config).train_trials(
                configs, folders, device="cpu", threads=1, packed=True, watch=TrialWatch()
            )
            return [(one.training_loss, one.validation_loss) for one in results]

        together = losses([config, other], "together")
        assert together == losses([config], "first") + losses([other], "second")
        assert together[0] != together[1]

    def test_it_reports_its_trials_or_takes_no_pruner(self, case: TrainerCase, tmp_path: Path) -> None:
        config = _config(case.config)
        if not config.trainer.watched:
            with pytest.raises(ValidationError, match="pruner"):
                _swept(case.config, pruner="median")
            return
        beats: list[None] = []
        asked: list[tuple[int, dict[int, float]]] = []

        def prunes(step: int, losses: Mapping[int, float]) -> Collection[int]:
            asked.append((step, dict(losses)))
            return [0]

        watch = TrialWatch(lambda: beats.append(None), prunes, prune_every=1)
        (result,) = trainer_of(config).train_trials(
            [config], [tmp_path / "trial"], device="cpu", threads=1, packed=False, watch=watch
        )
        assert beats
        assert [(step, list(losses)) for step, losses in asked] == [(1, [0])]
        assert (result.outcome, result.validation_loss) == ("pruned", None)

    def test_it_can_be_inspected_or_has_no_plan(self, case: TrainerCase) -> None:
        config = _config(case.config)
        if not config.trainer.inspectable:
            with pytest.raises(PlanError):
                plan_of(config)
            return
        plan = plan_of(config)
        assert plan.parameter_count > 0
        assert estimate(config, plan).training_flops > 0

    def test_it_trains_on_the_projects_data_or_takes_none(self, case: TrainerCase) -> None:
        config = _config(case.config)
        if config.trainer.project_data:
            assert load_data(config.data).fingerprint
            return
        with pytest.raises(ValidationError, match="data"):
            _config({**case.config, "data": {"kind": "text", "source": "python-stdlib"}})


_config = RunConfig.model_validate


def _swept(data: dict[str, Any], **search: Any) -> RunConfig:
    """The config with a sweep of two trials over `lr`."""
    lr = _config(data).hparams.resolved("lr")
    space = {"lr": {"choice": [lr, lr / 2]}}
    return _config({**data, "search": {"trials": 2, "confirm": {"top": 0}, "space": space, **search}})
