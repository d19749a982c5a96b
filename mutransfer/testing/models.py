"""What every model has to keep. Inherit, and give the fixture `case`: a `ModelCase`, one per variant of the model.

class TestMyModel(ModelContract):
    @pytest.fixture
    def case(self): return ModelCase(model={"kind": "mine", ...}, data=my_data, roles={...}, changes={...})

tests/models/test_contract.py does so for all cases in its table `CASES`: a model of the project is one entry there.
"""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mutransfer.config.hparams import Hparams
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.errors import UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.apply import MULTIPLIERS
from mutransfer.parametrization.rules import Role
from mutransfer.training.learner import Learner
from mutransfer.training.pack import CannotPack, PackLearner
from mutransfer.training.tryout import try_out
from mutransfer.verification import check_config

Make = Callable[..., RunConfig]
Changes = dict[str, Any]
"""Of the model's section."""

CPU = torch.device("cpu")
STEPS = 12
# Hparams that scale something of the model: neutral at 1, and either alive or said to be dead.
SCALES = [name for name, one in Hparams.model_fields.items() if one.default == 1.0]
SCALED_BY = {"attention_temperature": 0.125}
"""Every scale is tried at 2, but for these."""


@dataclass(frozen=True)
class ModelCase:
    """One variant of one model, small enough to train in a fraction of a second."""

    model: dict[str, Any]
    """The `model:` section at its base width, as the plain data of a YAML file."""
    data: Callable[[Path], dict[str, Any]]
    """Called with an empty folder, gives the `data:` section."""
    roles: Mapping[str, Role]
    """`{name pattern: role}` for every parameter; the first pattern that matches counts."""
    changes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Another value for fields of the section, with what it needs besides: `{field: {field: value}}`. All cases of a
    kind together have to change every field of it."""
    refused: tuple[tuple[dict[str, Any], str], ...] = ()
    """Changes of the section that are impossible or have no effect, each with a part of its message."""
    hparams: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.01})
    training: Mapping[str, Any] = field(default_factory=lambda: {"steps": STEPS, "batch_size": 4, "eval_batches": 2})
    check: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `check_config`: sizes, seeds, steps, lr, threshold, `finite` modules."""
    check_at: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the section for the coordinate check: its widths are 32, 64, 128, 256 unless said here."""
    packs: bool = True
    """Whether trials can train as one program; if not, a pack has to say so."""


def maker(case: ModelCase, folder: Path) -> Make:
    """`make(model={…}, hparams={…}, training={…}, parametrization=…)`: the case's config with changes."""
    data = case.data(folder)

    def make(
        model: Changes | None = None, hparams: Changes | None = None, training: Changes | None = None, **sections: Any
    ) -> RunConfig:
        own = {"model": (case.model, model), "training": (case.training, training), "hparams": (case.hparams, hparams)}
        changed = {name: {**section, **(changes or {})} for name, (section, changes) in own.items()}
        return RunConfig.model_validate({"name": "case", "data": data, **changed, **sections})

    return make


class ModelContract:
    @pytest.fixture
    def make(self, case: ModelCase, tmp_path: Path) -> Make:
        """See `maker`."""
        return maker(case, tmp_path)

    @pytest.fixture
    def wide(self, case: ModelCase) -> Changes:
        """The section's change to twice the base width."""
        return {"width": 2 * int(case.model["base_width"])}

    def test_roles_are_as_expected(self, case: ModelCase, make: Make, wide: Changes) -> None:
        plan = plan_of(make(wide))
        expected, used = {}, set()
        for name in plan.parameters:
            pattern = next((one for one in case.roles if fnmatch.fnmatchcase(name, one)), None)
            assert pattern is not None, f"{name} ({plan.parameters[name].role}) is in no pattern of roles"
            expected[name] = case.roles[pattern]
            used.add(pattern)
        assert {name: one.role for name, one in plan.parameters.items()} == expected
        assert used == set(case.roles), "patterns that match nothing"
        assert plan.warnings == ()

    def test_the_plan_is_of_the_model_that_is_built(self, make: Make, wide: Changes) -> None:
        config = make(wide)
        model, plan = build_model(config.model, config.data.spec), plan_of(config)
        assert plan.parameter_count == sum(parameter.numel() for parameter in model.parameters())
        shapes = {name: tuple(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}
        assert {name: tuple(one.shape) for name, one in plan.parameters.items()} == shapes

    @pytest.mark.usefixtures("double")
    def test_mup_is_the_standard_parametrization_at_base_width_and_not_above(self, make: Make, wide: Changes) -> None:
        mup, sp = (plan_of(make(parametrization=one)) for one in ("mup", "sp"))
        assert (mup.parameters, mup.residual) == (sp.parameters, sp.residual)
        assert mup.attention == pytest.approx(sp.attention, rel=1e-15)  # √d/d and 1/√d may differ in the last bit
        assert curve(make()) == pytest.approx(curve(make(parametrization="sp")), rel=1e-9)
        assert curve(make(wide)) != pytest.approx(curve(make(wide, parametrization="sp")), rel=1e-3)

    def test_it_learns_and_a_run_repeats_itself(self, make: Make) -> None:
        first = curve(make())
        assert first == curve(make())
        assert min(first[len(first) // 2 :]) < first[0]

    def test_the_coordinate_check_passes_and_sp_fails_it(self, case: ModelCase, make: Make) -> None:
        config = make({"width": 32, "base_width": 32, **case.check_at})
        base = config.model.base_width
        options = {"seeds": 2, "sizes": [base * factor for factor in (1, 2, 4, 8)], **case.check}
        check = check_config(config, control=True, **options)
        assert check.outcome == "passed", check.sentence

    @pytest.mark.usefixtures("double")
    def test_a_packed_trial_trains_as_alone(self, case: ModelCase, make: Make, wide: Changes) -> None:
        dead, lr = make(wide).model.dead_hparams(), make().hparams.lr
        own = {name: SCALED_BY.get(name, 2.0) for name in SCALES if name not in dead}
        hparams = [{"clip": 0.5}, {"lr": 2 * lr, "init_scale": 1.5, "warmup": 0.3}, {"lr": lr / 3, **own}]
        configs = [make(wide, {**one, "schedule": "linear"}) for one in hparams]
        if not case.packs:
            with pytest.raises(CannotPack):
                PackLearner(configs, CPU)
            return
        together, apart = pack_and_solo(configs)
        assert together.dtype == torch.float64
        assert furthest(together, apart) < 1e-9
        assert furthest(together[:, [1, 2, 0]], apart) > 1e-3  # the control: they are not one another's copies

    def test_every_field_changes_the_run(self, case: ModelCase, make: Make, wide: Changes) -> None:
        before = curve(make(wide))
        for name, change in case.changes.items():
            assert curve(make({**wide, **change})) != before, name

    def test_what_is_no_possible_model_or_does_nothing_is_refused(self, case: ModelCase, make: Make) -> None:
        for change, message in case.refused:
            with pytest.raises(ValidationError, match=message) as caught:
                make(change)
            assert len(caught.value.errors()) == 1, change

    def test_every_scale_among_the_hparams_is_alive_or_refused(self, make: Make, wide: Changes) -> None:
        before, dead = curve(make(wide)), make(wide).model.dead_hparams()
        for name in SCALES:
            change = {name: SCALED_BY.get(name, 2.0)}
            if name in dead:
                with pytest.raises(ValidationError, match="has no effect"):
                    make(wide, change)
                continue
            changed = make(wide, change)
            try:
                try_out(changed)  # of foreign code: what it has is seen when it is built
            except UsageError as error:
                if "has no effect" not in str(error):
                    raise
            else:
                assert curve(changed) != before, name

    def test_its_state_is_plain_and_loads_without_unpickling(self, make: Make, wide: Changes) -> None:
        config, again = make(wide), make(wide, training={"seed": 1})
        data = load_data(config.data)
        batches = list(data.validation(batch_size=config.training.batch_size, batches=2))
        trained, other = Learner(config, CPU), Learner(again, CPU)
        for step in range(3):
            trained.train_step(step, data.batch(step, batch_size=config.training.batch_size, seed=0))
        state = trained.model.state_dict()
        own = {name for name in state if name.rpartition(".")[2] not in MULTIPLIERS}
        assert own == set(build_model(config.model, config.data.spec).state_dict())
        parameters = {name for name, _ in trained.model.named_parameters(remove_duplicate=False)}
        buffers = {name for name, _ in trained.model.named_buffers()}
        assert parameters <= set(state) <= parameters | buffers
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert other.evaluate(batches) != trained.evaluate(batches)
        other.model.load_state_dict(loaded)
        assert other.evaluate(batches) == trained.evaluate(batches)


def curve(config: RunConfig, steps: int = STEPS) -> list[float]:
    """Losses of a short run, and the validation loss after it."""
    data, learner = load_data(config.data), Learner(config, CPU)
    size = config.training.batch_size
    losses = [learner.train_step(step, data.batch(step, batch_size=size, seed=0)) for step in range(steps)]
    return [*map(float, losses), learner.evaluate(data.validation(batch_size=size, batches=2))]


def pack_and_solo(configs: list[RunConfig], steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Losses (steps + 1, N) of the pack and of each member by itself; the last row is the validation loss."""
    data, size = load_data(configs[0].data), configs[0].training.batch_size
    pack, alone = PackLearner(configs, CPU), [Learner(config, CPU) for config in configs]
    together, apart = [], []
    for step in range(steps):
        batch = data.batch(step, batch_size=size, seed=0)
        together.append(pack.train_step(step, [batch]))
        apart.append(torch.stack([one.train_step(step, batch) for one in alone]))
    held_out = list(data.validation(batch_size=size, batches=2))
    together.append(torch.tensor(pack.evaluate(held_out)))
    apart.append(torch.tensor([one.evaluate(held_out) for one in alone]))
    return torch.stack(together), torch.stack(apart)


def furthest(together: Tensor, apart: Tensor) -> float:
    """Largest relative difference."""
    return float(((together - apart).abs() / apart.abs()).max())
