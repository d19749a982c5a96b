"""The form of a ResNet, its fan-ins, and batch norm in runs, packs and evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from mutransfer.config.data import ClassSpec
from mutransfer.config.models import ResNetSection
from mutransfer.data import load_data
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.kernels import PackedKernels
from mutransfer.training.learner import Learner
from mutransfer.training.pack import PackLearner
from tests.conftest import build

CPU = torch.device("cpu")
CIFAR, PHOTO = ClassSpec((3, 32, 32), 10), ClassSpec((3, 224, 224), 1000)


@pytest.fixture
def resnet(mlp: dict[str, Any]) -> dict[str, Any]:
    """A resnet on digits at its base width."""
    return {
        **mlp,
        "name": "tiny-resnet",
        "model": {"kind": "resnet", "width": 8, "base_width": 8, "blocks": [1, 1]},
        "training": {"steps": 12, "batch_size": 16, "eval_batches": 2},
    }


def made(spec: ClassSpec, **fields: Any) -> torch.nn.Module:
    return build_model(ResNetSection(kind="resnet", **{"width": 8, "base_width": 8, **fields}), spec)


def test_at_width_64_with_gains_it_has_resnet18s_parameters() -> None:
    """He et al. 2015, Table 1; 11,689,512 is what torchvision's resnet18 has."""
    with torch.device("meta"):
        model = made(PHOTO, width=64, base_width=64, norm_gain=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 17 + 3  # and the readout makes 18; three are shortcuts


@pytest.mark.parametrize(("spec", "sides"), [(CIFAR, [32, 16, 8, 4]), (PHOTO, [56, 28, 14, 7])])
def test_small_images_keep_their_resolution_in_the_first_stage_and_large_ones_a_quarter(
    spec: ClassSpec, sides: list[int]
) -> None:
    model, seen = made(spec), []
    for stage in model.stages:  # type: ignore[union-attr]
        stage.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    logits = model.eval()(torch.zeros(2, *spec.shape))
    assert logits.shape == (2, spec.classes)
    assert seen == [(2, 8 * 2**stage, side, side) for stage, side in enumerate(sides)]


def test_the_fan_in_of_a_convolution_counts_its_kernel_once() -> None:
    """So that the kernel drops out of m_in, and is in the initial std at base width."""
    section = ResNetSection(kind="resnet", width=32, base_width=8)
    plan = plan_for(
        lambda width: build_model(section.at_width(width), CIFAR), width=32, base_width=8, finite_sizes=CIFAR.sizes
    )
    hidden, stem = plan.parameters["stages.1.0.first.weight"], plan.parameters["stem.weight"]
    assert (hidden.fan_in, hidden.m_in, hidden.m_out) == (32 * 9, 4.0, 4.0)
    assert hidden.base_init_std == pytest.approx(1 / math.sqrt(8 * 9))
    assert hidden.init_std == pytest.approx(1 / math.sqrt(32 * 9))
    assert (stem.role, stem.fan_in, stem.init_std) == ("input", 27, pytest.approx(1 / math.sqrt(27)))
    assert plan.warnings == ()


def test_evaluation_uses_running_means_and_training_the_batchs_own(resnet: dict[str, Any]) -> None:
    config = build(resnet)
    learner, data = Learner(config, CPU), load_data(config.data)
    batch = data.batch(0, batch_size=16, seed=0)
    other = (np.concatenate([batch[0][:1], np.zeros_like(batch[0][1:])]), batch[1])
    for step in range(3):
        learner.train_step(step, batch)
    first = [learner.model.eval()(torch.from_numpy(given[0]))[0] for given in (batch, other)]
    torch.testing.assert_close(*first)  # an example's logits do not depend on the others
    learner.model.train()
    first = [learner.model(torch.from_numpy(given[0]))[0] for given in (batch, other)]
    assert (first[0] - first[1]).abs().max() > 1e-4
    assert learner.evaluate([batch]) != pytest.approx(float(learner.train_step(3, batch)), rel=1e-4)


def test_each_member_of_a_pack_has_running_means_of_its_own(resnet: dict[str, Any]) -> None:
    configs = [build(resnet, hparams={"optimizer": "sgd", "lr": lr}) for lr in (0.05, 0.4)]
    data = load_data(configs[0].data)
    pack, alone = PackLearner(configs, CPU), [Learner(config, CPU) for config in configs]
    for step in range(8):
        batch = data.batch(step, batch_size=16, seed=0)
        pack.train_step(step, [batch])
        for one in alone:
            one.train_step(step, batch)
    states = [{name: tensor.clone() for name, tensor in pack.member(row).state_dict().items()} for row in (0, 1)]
    for state, one in zip(states, alone, strict=True):
        for name, tensor in one.model.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)
    name = "stages.1.0.second_norm.running_mean"
    assert (states[0][name] - states[1][name]).abs().max() > 1e-3
    assert int(states[0]["norm.num_batches_tracked"]) == 8
    pack.keep([1])
    kept = pack.member(0).state_dict()
    torch.testing.assert_close(kept[name], states[1][name])


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_under_vmap_is_group_norm(affine: bool) -> None:
    """Torch's own cannot run there; forward and backward."""
    x = torch.randn(3, 2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    given = (weight, bias) if affine else ()
    with PackedKernels():
        ours = vmap(lambda one, *affine: F.group_norm(one, 4, *affine))(x, *given)
    theirs = torch.stack([F.group_norm(x[row], 4, *(one[row] for one in given)) for row in range(3)])
    torch.testing.assert_close(ours, theirs)
    for own, other in zip(
        torch.autograd.grad(ours.pow(3).sum(), (x, *given)),
        torch.autograd.grad(theirs.pow(3).sum(), (x, *given)),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


def test_the_state_has_the_running_means_and_a_plan_knows_the_rest(resnet: dict[str, Any]) -> None:
    config = build(resnet)
    model = build_model(config.model, config.data.spec)
    buffers = {name for name in model.state_dict() if "running" in name or "num_batches" in name}
    assert set(model.state_dict()) - buffers == set(plan_of(config).parameters)
