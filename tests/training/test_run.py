"""A run in its folder: files, refusal, exact resuming."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, load_model

from mutransfer.data import load_data
from mutransfer.errors import DataError, NothingUsable, UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.apply import set_multipliers
from mutransfer.training.folder import TrainFolder
from mutransfer.training.learner import Learner
from mutransfer.training.run import train
from tests.conftest import build


@pytest.fixture
def folder(tmp_path):
    return TrainFolder(tmp_path / "run")


def stop_after(steps):
    seen = iter(range(1, 10_000))
    return lambda: next(seen) >= steps


def test_leaves_config_plan_metrics_weights_and_result(gpt, folder):
    config = build(gpt, model__tied_embeddings=True)
    result = train(config, folder)
    assert folder.read_result() == result
    assert json.loads(folder.plan.read_text())["width"] == 16
    model = build_model(config.model, config.data.spec)
    set_multipliers(model, plan_of(config))
    load_model(model, str(folder.weights))  # a state dict, tied weights once
    assert "embedding.weight" in load_file(folder.weights) or "readout.weight" in load_file(folder.weights)


def test_saved_weights_with_the_plan_give_the_trained_loss(gpt, folder):
    config = build(gpt, model__width=32, hparams__temperature=2.0)
    result = train(config, folder)
    learner = Learner(config, torch.device("cpu"))
    learner.model = build_model(config.model, config.data.spec)
    with pytest.raises(RuntimeError, match=r"readout\.mup_input_multiplier"):  # not without its multipliers
        load_model(learner.model, str(folder.weights))
    set_multipliers(learner.model, plan_of(config))
    load_model(learner.model, str(folder.weights))
    learner._forward = learner.model
    again = learner.evaluate(load_data(config.data).validation(batch_size=4, batches=2))
    assert again == result.validation_loss


@pytest.mark.parametrize("hparams", [{"lr": 0.01}, {"optimizer": "sgd", "lr": 0.1, "schedule": "step"}])
@pytest.mark.parametrize("stops", [(5,), (3, 4)])
def test_resumed_losses_equal_uninterrupted_ones_exactly(gpt, tmp_path, hparams, stops):
    config = build(gpt, hparams=hparams, training__checkpoint_every=4, training__eval_every=3)
    whole = TrainFolder(tmp_path / "whole")
    expected = train(config, whole)
    parts = TrainFolder(tmp_path / "parts")
    for number, stop in enumerate(stops):
        assert train(config, parts, resume=number > 0, should_stop=stop_after(stop)).outcome == "interrupted"
    result = train(config, parts, resume=True)
    assert (result.validation_loss, result.training_loss) == (expected.validation_loss, expected.training_loss)
    assert parts.metrics.read_text() == whole.metrics.read_text()


def test_resumes_from_the_last_checkpoint_after_a_kill(gpt, tmp_path):
    """What a SIGKILL leaves: a checkpoint, and metrics beyond it with a torn last line."""
    config = build(gpt, training__checkpoint_every=4, training__log_every=1)
    whole, killed = TrainFolder(tmp_path / "whole"), TrainFolder(tmp_path / "killed")
    train(config, whole)

    class Killed(Exception):
        pass

    def die(news):
        if news.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(config, killed, on_progress=die)
    with killed.metrics.open("a") as file:
        file.write('{"step": 7, "lo')
    assert killed.latest_checkpoint().name == "step-00000004.pt"
    train(config, killed, resume=True)
    assert killed.metrics.read_text() == whole.metrics.read_text()


def test_refuses_a_folder_with_a_run_unless_resuming(gpt, folder):
    config = build(gpt)
    result = train(config, folder)
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="holds a run already; continue it with --resume"):
        train(config, folder)
    assert train(config, folder, resume=True) == result  # finished: nothing to do
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


def test_refuses_to_resume_with_another_config(gpt, folder):
    train(build(gpt), folder, should_stop=stop_after(3))
    with pytest.raises(UsageError, match=r"hparams\.lr: 0\.01 → 0\.02"):
        train(build(gpt, hparams__lr=0.02), folder, resume=True)


@pytest.mark.parametrize("damage", ["truncate", "empty", "text"])
def test_damaged_checkpoint_is_one_clear_error(gpt, folder, damage):
    config = build(gpt)
    train(config, folder, should_stop=stop_after(3))
    checkpoint = folder.latest_checkpoint()
    content = checkpoint.read_bytes()
    damaged = {"truncate": content[: len(content) // 2], "empty": b"", "text": b"not a checkpoint"}[damage]
    checkpoint.write_bytes(damaged)
    with pytest.raises(UsageError, match="checkpoint cannot be read"):
        train(config, folder, resume=True)
    assert checkpoint.read_bytes() == damaged


def test_checkpoint_with_code_in_it_is_not_run(gpt, folder, tmp_path):
    config = build(gpt)
    train(config, folder, should_stop=stop_after(3))
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self):
            return open, (str(witness), "w")

    torch.save({"step": 3, "model": Evil(), "optimizer": {}}, folder.latest_checkpoint())
    with pytest.raises(UsageError, match="checkpoint cannot be read"):
        train(config, folder, resume=True)
    assert not witness.exists()


def test_one_process_trains_in_a_folder(gpt, folder):
    config = build(gpt)

    def intrude(news):
        with pytest.raises(UsageError, match="another process is training here"):
            train(config, TrainFolder(folder.root), resume=True)

    train(config, folder, on_progress=intrude)


def test_only_the_newest_checkpoint_is_kept(gpt, folder):
    train(build(gpt, training__checkpoint_every=2), folder)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000012.pt"]


def test_resuming_on_other_data_is_refused(gpt, folder, corpus):
    train(build(gpt), folder, should_stop=stop_after(3))
    corpus.write_text(corpus.read_text().upper())
    load_data.cache_clear()
    with pytest.raises(UsageError, match="the data has changed since it was saved"):
        train(build(gpt), folder, resume=True)


def test_a_model_that_does_not_fit_into_memory_is_no_bug(gpt, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6399999999936 bytes.")

    monkeypatch.setattr("mutransfer.training.loop.fit", refuse)
    with pytest.raises(NothingUsable, match=r"out of memory on cpu: a model of width 16 does not fit .*batches"):
        train(build(gpt), folder)


def test_what_is_refused_at_its_start_leaves_no_folder_and_what_stood_there_stays(gpt, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise DataError("no")

    monkeypatch.setattr("mutransfer.training.loop.fit", refuse)
    with pytest.raises(DataError):
        train(build(gpt), TrainFolder(tmp_path / "new" / "run"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        train(build(gpt), TrainFolder(tmp_path / "old"))
    assert (tmp_path / "old" / "notes.txt").read_text() == "mine"
