"""Optional rules: off by default, never silent, and doing to a model what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mutransfer.errors import PlanError
from mutransfer.models import plan_of
from mutransfer.parametrization.options import options_of
from mutransfer.parametrization.rules import Options
from mutransfer.training.learner import Learner
from tests.conftest import build


def groups_by_name(config):
    return {
        name: group for group in Learner(config, torch.device("cpu")).optimizer.param_groups for name in group["names"]
    }


def test_nothing_is_on_by_default(gpt):
    assert options_of(build(gpt, training__batch_size=64, training__steps=1000, model__depth=8)) == Options()


@pytest.mark.parametrize(
    ("rules", "changes", "factor"),
    [
        ({"batch_size": {"base_batch_size": 4}}, {"training__batch_size": 16}, 2.0),
        ({"batch_size": {"base_batch_size": 4}}, {"training__batch_size": 16, "hparams__optimizer": "sgd"}, 4.0),
        ({"horizon": {"base_steps": 12}}, {"training__steps": 24}, 2**-0.32),
        ({"batch_size": {"base_batch_size": 4}, "horizon": {"base_steps": 12, "exponent": -0.5}},
         {"training__batch_size": 16, "training__steps": 48}, 1.0),
    ],
)  # fmt: skip
def test_batch_size_and_horizon_scale_every_lr_and_say_so(gpt, rules, changes, factor):
    config = build(gpt, rules=rules, **changes)
    before, after = groups_by_name(build(gpt, **changes)), groups_by_name(config)
    for name in before:
        assert after[name]["peak_lr"] == pytest.approx(factor * before[name]["peak_lr"]), name
    notes = plan_of(config).options.notes
    assert [note.split(":")[0] for note in notes] == [f"rules.{name}" for name in rules]


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_depth_rule_reaches_blocks_and_nothing_else(gpt, alpha):
    rules = {"depth": {"base_depth": 1, "alpha": alpha}}
    config = build(gpt, rules=rules, model__depth=4)
    learner = Learner(config, torch.device("cpu"))
    assert [float(block.residual_scale) for block in learner.model.blocks] == [4**-alpha] * 4
    plain, scaled = groups_by_name(build(gpt, model__depth=4)), groups_by_name(config)
    for name in plain:
        share = 4 ** (alpha - 1) if name.startswith("blocks.") else 1.0
        assert scaled[name]["peak_lr"] == pytest.approx(share * plain[name]["peak_lr"]), name
    assert "residual branches" in plan_of(config).options.notes[0]
    assert plan_of(build(gpt, rules=rules)).parameters == plan_of(build(gpt)).parameters  # nothing at base depth


def test_depth_rule_without_residual_blocks_is_refused(mlp):
    with pytest.raises(ValueError, match="needs a residual model"):
        build(mlp, rules={"depth": {"base_depth": 1}})
    from mutransfer.parametrization.plan import make_plan
    from mutransfer.parametrization.rules import DepthScaling

    with pytest.raises(PlanError, match="residual_scale"):
        make_plan([], width=1, base_width=1, options=Options(depth=DepthScaling(2, 1.0)))


def test_independent_weight_decay_does_not_know_the_lr(gpt):
    """One step on weights without a gradient: they shrink by λ × the schedule's factor, at any lr and width."""
    for lr, width in ((0.01, 16), (0.01, 64), (0.04, 64)):
        config = build(
            gpt, rules={"weight_decay": "independent"}, model__width=width,
            hparams={"lr": lr, "weight_decay": 0.125, "warmup": 0.0, "schedule": "constant"},
        )  # fmt: skip
        learner = Learner(config, torch.device("cpu"))
        before = {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}
        for parameter in learner.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        learner.optimizer.step()
        for name, parameter in learner.model.named_parameters():
            torch.testing.assert_close(parameter, before[name] * 0.875, msg=name)


def test_fixed_product_decays_by_lr_times_lambda_at_every_width(gpt):
    for width in (16, 64):
        for group in groups_by_name(build(gpt, model__width=width, hparams__weight_decay=0.5)).values():
            assert group["peak_lr"] * group["weight_decay"] == pytest.approx(0.01 * 0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_corners_of_the_plane_train_like_sp_and_mup(gpt, optimizer):
    data = build(gpt, model__width=64, model__zero_readout=False, model__zero_query=False, model__head_dim=None,
                 model__heads=2, hparams={"optimizer": optimizer, "lr": 0.01})  # fmt: skip

    def losses(parametrization, rules=None):
        config = data.model_copy(update={"parametrization": parametrization})
        if rules is not None:
            config = type(data).model_validate({**config.resolved(), "rules": rules})
        learner = Learner(config, torch.device("cpu"))
        learner.model.double()
        tokens = np.random.default_rng(0).integers(0, 256, (4, 17))
        return [float(learner.train_step(step, (tokens[:, :-1], tokens[:, 1:]))) for step in range(6)]

    for share, end in ((0.0, "sp"), (1.0, "mup")):
        corner = losses("interpolated", {"interpolation": {"init": share, "lr": share}})
        assert corner == pytest.approx(losses(end), rel=1e-4), end
    assert losses("sp") != pytest.approx(losses("mup"), rel=1e-2)


def test_interpolation_and_its_parametrization_belong_together(gpt):
    for changes in ({"parametrization": "interpolated"}, {"rules": {"interpolation": {"init": 0, "lr": 0}}}):
        with pytest.raises(ValueError, match="give both or neither"):
            build(gpt, **changes)
    with pytest.raises(ValueError, match="tied"):
        build(gpt, parametrization="interpolated", rules={"interpolation": {"init": 0, "lr": 0}},
              model__tied_embeddings=True)  # fmt: skip


@pytest.mark.parametrize(
    ("parametrization", "low", "high"), [("mup", -0.1, 0.1), ("ntk", -0.6, -0.4), ("sp", 0.5, 1.1)]
)
def test_how_far_hidden_features_move_with_width(mlp, parametrization, low, high):
    """The slope of the last hidden layer's change after three steps of Adam, by parametrization."""
    widths, changes = (64, 256, 1024), []
    for width in widths:
        config = build(mlp, model__width=width, model__base_width=64, parametrization=parametrization,
                       model__zero_readout=False,
                       hparams={"optimizer": "adamw", "lr": 1e-3, "warmup": 0.0, "schedule": "constant"})  # fmt: skip
        learner = Learner(config, torch.device("cpu"))
        images = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
        labels = np.random.default_rng(1).integers(0, 10, 32)
        seen = []
        learner.model.layers[1].register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.detach()))
        for step in range(4):
            learner.train_step(step, (images, labels))
        changes.append(float((seen[3] - seen[0]).square().mean().sqrt()))
    slope = np.polyfit(np.log2(widths), np.log2(changes), 1)[0]
    assert low < slope < high


def test_gradients_have_the_width_dependence_that_the_rule_for_eps_assumes(mlp):
    """The slope of every weight's and bias's RMS gradient against width is the exponent of its ε."""
    widths, sizes = (32, 64, 128, 256), {}
    mlp = {**mlp, "hparams": {"optimizer": "adamw", "lr": 1e-3}}
    configs = {
        width: build(mlp, model__width=width, model__base_width=32, model__zero_readout=False) for width in widths
    }
    for width, config in configs.items():
        for seed in range(3):
            training = config.training.model_copy(update={"seed": seed})
            learner = Learner(config.model_copy(update={"training": training}), torch.device("cpu"))
            images = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
            learner.train_step(0, (images, np.random.default_rng(seed).integers(0, 10, 64)))
            for name, parameter in learner.model.named_parameters():
                rms = float(parameter.grad.square().mean().sqrt())
                sizes.setdefault(name, {}).setdefault(width, []).append(rms)
    plan = plan_of(configs[256])
    for name, by_width in sizes.items():
        slope = np.polyfit(np.log2(widths), [np.log2(np.mean(by_width[width])) for width in widths], 1)[0]
        assert slope == pytest.approx(np.log2(plan.parameters[name].eps) / np.log2(8), abs=0.12), name
