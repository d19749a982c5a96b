"""Plans fit models that others have wrapped, and no wrapper, copy or state dict loses a multiplier."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import mutransfer as mt
from mutransfer.errors import PlanError
from mutransfer.parametrization.facts import ModelFacts

X = torch.arange(11)
# torch.compile looks at .grad of every tensor and hides the warning, which pytest turns into an error before.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(11, width), nn.Linear(width, width), nn.Linear(width, 7)
        self.register_buffer("attention_scale", torch.ones(()), persistent=False)
        self.facts = ModelFacts(readouts=("head",), attention={"": max(width // 4, 1)})

    def forward(self, x):
        return self.head(self.body(self.table(x) * self.attention_scale).relu())


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_head(model):
    model.head = compiled(model.head)
    return model


def checkpointed_body(model):
    model.body = checkpoint_wrapper(model.body)
    return model


def with_running_average(model):
    return torch.optim.swa_utils.AveragedModel(model)


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS = [compiled, compiled_head, checkpointed_body, with_running_average, nn.DataParallel,
            nn.parallel.DistributedDataParallel, lambda model: nn.DataParallel(compiled(model))]  # fmt: skip


def planned(factory=Net, **arguments):
    return mt.plan_for(factory, width=32, base_width=8, zero_readout=False, **arguments)


def initialized(model, plan):
    mt.initialize(model, plan, seed=1, temperature=0.5, attention_temperature=2.0)
    return model


def numbers(model, plan):
    return [{**group, "params": [tuple(one.shape) for one in group["params"]]}
            for group in mt.parameter_groups(model, plan, lr=0.1)]  # fmt: skip


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda one: one.__name__)
def test_a_plan_fits_before_and_after_wrapping(wrap):
    plan = planned()
    plain = initialized(Net(32), plan)
    expected = plain(X).detach()
    assert torch.equal(wrap(initialized(Net(32), plan))(X), expected)
    after = wrap(Net(32))
    after(X)  # compiled code has seen no multipliers yet
    assert torch.equal(initialized(after, plan)(X), expected)
    assert numbers(after, plan) == numbers(plain, plan)
    mt.set_multipliers(after, plan, temperature=0.25, attention_temperature=2.0)
    torch.testing.assert_close(after(X), 2 * expected)
    if wrap is not nn.parallel.DistributedDataParallel:  # which cannot be built on the meta device
        assert planned(lambda width: wrap(Net(width))) == plan


@pytest.mark.parametrize("wrap", [lambda model: model, compiled, with_running_average])
def test_multipliers_survive_copies_and_state_dicts(wrap):
    plan = planned()
    model = initialized(wrap(Net(32)), plan)
    expected, state = model(X), model.state_dict()
    assert torch.equal(copy.deepcopy(model)(X), expected)
    for settings in ({}, {"temperature": 4.0}):
        other = wrap(Net(32))
        mt.set_multipliers(other, plan, **settings)
        other.load_state_dict(state)
        assert torch.equal(other(X), expected)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*head\.mup_input_multiplier"):
        wrap(Net(32)).load_state_dict(state)
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(("multiplier", "scale"))}
    copied = copy.deepcopy(model)
    copied.load_state_dict(weights)  # of another program: the model keeps its multipliers
    assert torch.equal(copied(X), expected)


def test_multipliers_survive_export_and_pickle():
    model = initialized(Net(32), planned())
    expected, file = model(X), io.BytesIO()
    torch.export.save(torch.export.export(model, (X,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(X), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), expected)


def test_multipliers_on_the_meta_device_are_refused_because_to_empty_would_lose_them():
    with torch.device("meta"):
        model = Net(32)
    with pytest.raises(PlanError, match="after the model was moved to a device"):
        mt.set_multipliers(model, planned())
    model.to_empty(device="cpu")
    mt.set_multipliers(model, planned())


@pytest.mark.filterwarnings("ignore:FSDP is switching to use:UserWarning")
@pytest.mark.filterwarnings("ignore:.*FullyShardedDataParallel.*deprecated:FutureWarning")
@pytest.mark.usefixtures("group")
def test_flat_shards_are_refused():
    flat = FullyShardedDataParallel(Net(32), device_id=torch.device("cpu"))
    with pytest.raises(PlanError, match=r"use torch\.distributed\.fsdp\.fully_shard"):
        mt.parameter_groups(flat, planned(), lr=0.1)


def sharded_as_whole(rank, folder):
    """One of two ranks: the logits of a model that is sharded before or after its initialization."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    try:
        plan, mesh = planned(), dist.init_device_mesh("cpu", (2,))
        expected = torch.load(f"{folder}/logits.pt")
        before, after = initialized(Net(32), plan), Net(32)
        for model in (before, after):
            fully_shard(model.head, mesh=mesh)
            fully_shard(model, mesh=mesh)
        initialized(after, plan)
        for model in (before, after):
            torch.testing.assert_close(model(X), expected)
            names = [name for group in mt.parameter_groups(model, plan, lr=0.1) for name in group["names"]]
            assert sorted(names) == sorted(plan.parameters)
    finally:
        dist.destroy_process_group()


def test_fully_shard_before_and_after(tmp_path):
    torch.save(initialized(Net(32), planned())(X).detach(), tmp_path / "logits.pt")
    torch.multiprocessing.spawn(sharded_as_whole, (str(tmp_path),), nprocs=2)
