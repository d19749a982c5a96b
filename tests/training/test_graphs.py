"""A computation by a recorded graph, with a recorder for CPUs: static memory, comparison, and going on without."""

from __future__ import annotations

import pytest
import torch

from mutransfer.data import load_data
from mutransfer.training import pack as pack_module
from mutransfer.training.graphs import Graphed
from mutransfer.training.pack import PackLearner
from tests.conftest import build

CPU = torch.device("cpu")


class Recorder:
    """Records a function and plays it again into the memory that it first returned."""

    def __init__(self, *, spoil=0.0, fail=""):
        self.spoil, self.fail, self.warmed, self.recorded, self.replays = spoil, fail, 0, 0, 0

    def warm_up(self, run):
        self.warmed += 1
        return run()

    def record(self, run):
        if self.fail:
            raise RuntimeError(self.fail)
        self.recorded += 1
        losses, gradients = run()

        def replay():
            self.replays += 1
            new = run()
            losses.copy_(new[0] + self.spoil)
            for own, one in zip(gradients, new[1], strict=True):
                if own is not None:
                    own.copy_(one)

        return (losses, gradients), replay


def computation():
    """Losses (2,), gradients of a weight and of nothing, and a counter as the buffer."""
    weight, counter, calls = torch.ones(2, 3, requires_grad=True), torch.zeros(()), []

    def compute(inputs, targets):
        calls.append(1)
        counter.add_(1.0)
        losses = ((weight * inputs[0]).sum(1) - targets).square()
        (grad,) = torch.autograd.grad(losses.sum(), [weight])
        return losses.detach(), [grad, None]

    return compute, counter, calls


def batches(count, rows=2):
    generator = torch.Generator().manual_seed(0)
    return [
        ((torch.randn(rows, 3, generator=generator),), torch.randn(rows, generator=generator)) for _ in range(count)
    ]


def test_gives_what_the_computation_gives():
    compute, counter, _ = computation()
    recorder = Recorder()
    graphed, kept = Graphed(compute, [counter], recorder), []
    for at, (inputs, targets) in enumerate(batches(8)):
        losses, gradients = graphed(inputs, targets)
        kept.append((losses, computation()[0](inputs, targets)[0]))
        assert torch.equal(gradients[0], computation()[0](inputs, targets)[1][0])
        assert gradients[1] is None
        # Its buffers move once a call; recording itself runs nothing on a GPU, and once here.
        assert int(counter) == at + 1
    assert (recorder.warmed, recorder.recorded, recorder.replays) == (3, 1, 5)
    assert all(torch.equal(*pair) for pair in kept)  # losses are not overwritten
    assert not graphed.refused


def test_another_shape_goes_without():
    compute, counter, _ = computation()
    recorder = Recorder()
    graphed = Graphed(compute, [counter], recorder)
    for inputs, targets in batches(5):
        graphed(inputs, targets)
    replays = recorder.replays
    losses, _ = graphed((torch.ones(1, 3),), torch.zeros(1))
    assert losses.tolist() == [9.0, 9.0]
    assert recorder.replays == replays


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (Recorder(spoil=1.0), "its results differ from those without it"),
        (Recorder(fail="not permitted"), "not permitted"),
    ],
)
def test_goes_on_without_a_graph_that_cannot_be_trusted(recorder, why):
    compute, counter, _ = computation()
    graphed = Graphed(compute, [counter], recorder)
    for at, (inputs, targets) in enumerate(batches(6)):
        losses, _ = graphed(inputs, targets)
        assert torch.equal(losses, computation()[0](inputs, targets)[0])
        assert int(counter) == at + 1
    assert graphed.refused == why


def test_a_diverged_member_is_no_difference():
    compute, counter, _ = computation()
    graphed = Graphed(compute, [counter], Recorder())
    for inputs, targets in batches(5):
        inputs[0][1] = torch.nan
        losses, _ = graphed(inputs, targets)
        assert torch.isfinite(losses).tolist() == [True, False]
    assert not graphed.refused


def test_packs_train_alike_with_graphs(mlp, monkeypatch):
    """Through dropping a member, after which a new graph is recorded."""
    recorders = []

    def graphed(compute, state):
        recorders.append(Recorder())
        return Graphed(compute, state, recorders[-1])

    configs = [build(mlp, hparams={"optimizer": "sgd", "lr": lr}) for lr in (0.1, 0.2, 0.3)]
    data = load_data(configs[0].data)
    monkeypatch.setattr(pack_module, "Graphed", graphed)
    with_graphs, without = PackLearner(configs, CPU), PackLearner(configs, CPU, graphs=False)
    monkeypatch.setattr(with_graphs, "_can_graph", lambda: True)
    for step in range(12):
        batch = data.batch(step, batch_size=8, seed=0)
        assert torch.equal(with_graphs.train_step(step, [batch]), without.train_step(step, [batch]))
        if step == 5:
            with_graphs.keep([0, 2])
            without.keep([0, 2])
    assert [recorder.recorded for recorder in recorders] == [1, 1]
    assert all(recorder.replays > 1 for recorder in recorders)
