"""The search section on its way in: impossible spaces, `--set`, and spaces in a file of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.errors import ConfigError
from tests.config.conftest import FILE, GPT, MLP, Load, Refuse, edited

RANGE = "lr: {log_uniform: [1e-3, 1e-1]}"


def space(text: str) -> str:
    """The gpt config with another space, which begins on line 9."""
    return edited(GPT, RANGE, text)


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        ("lr: {log_uniform: [1e-1, 1e-3]}", "lr.log_uniform: low < high must hold, but got low=0.1, high=0.001"),
        ("lr: {uniform: [0.1, 0.1]}", "lr.uniform: low < high must hold, but got low=0.1, high=0.1"),
        ("lr: {log_uniform: [0, 1]}", "lr.log_uniform: a log range cannot touch zero, but got low=0"),
        ("lr: {}", "lr: give exactly one of log_uniform, uniform, choice and powers, but got none"),
        ("lr: {uniform: [1, 2], choice: [1]}", "lr: give exactly one of"),
        ("lr: {choice: [0.1, 0.2, 0.1]}", "lr.choice: has a value twice: [0.1, 0.2, 0.1]"),
        ("lr: {powers: {start: 2, stop: 1}}", "lr.powers.start: start <= stop must hold, but got start=2, stop=1"),
        ("lr: 0.1", "lr: must be a section (key: value lines), but got 0.1"),
        ("lr: {uniform: [0, 1]}", "lr: must be > 0, but got 0.0"),
        ("schedule: {choice: [cosine, linera]}", "schedule: must be 'constant', 'linear', 'cosine', "),
        ("temprature: {log_uniform: [1, 2]}", "temprature: is not an hparam; did you mean temperature?"),
        ("optimizer: {choice: [sgd, adamw]}", "optimizer: cannot be swept: its best lr is another one; sweep each"),
        ("milestones: {choice: [0.5, 0.8]}", "milestones: cannot be swept: it is a list; sweep step_factor"),
        ("momentum: {uniform: [0, 0.9]}",
         "momentum: has no effect with optimizer adamw; it is for sgd"),
        ("step_factor: {uniform: [0.1, 0.9]}", "step_factor: has no effect with schedule cosine"),
    ],
)  # fmt: skip
def test_an_impossible_range_is_refused_with_line_and_field(refuse: Refuse, swept: str, message: str) -> None:
    assert refuse(space(swept)).startswith(f"{FILE}:9: search.space.{message}")


def test_final_lr_is_not_swept_with_a_constant_schedule(refuse: Refuse) -> None:
    text = edited(space("final_lr: {uniform: [0, 0.5]}"), "{lr: 0.01}", "{schedule: constant}")
    assert refuse(text) == f"{FILE}:9: search.space.final_lr: has no effect with schedule constant"


def test_final_lr_may_be_swept_with_schedules_of_which_one_reads_it(load: Load) -> None:
    both = "final_lr: {uniform: [0, 0.5]}\n    schedule: {choice: [constant, linear]}"
    config = load(edited(space(both), "{lr: 0.01}", "{schedule: constant}"))
    assert config.with_hparams({"schedule": "constant", "final_lr": 0.25}).hparams.final_lr is None
    assert config.with_hparams({"schedule": "linear", "final_lr": 0.25}).hparams.final_lr == 0.25


def test_final_lr_with_swept_schedules_that_ignore_it_is_refused_by_their_names(refuse: Refuse) -> None:
    message = refuse(space("final_lr: {uniform: [0, 0.5]}\n    schedule: {choice: [constant, step]}"))
    assert message.startswith(f"{FILE}:9: search.space.final_lr: has no effect with schedule ")
    assert "constant" in message
    assert "step" in message
    assert "cosine" not in message, "cosine does read final_lr, and is not among the schedules swept"


@pytest.mark.parametrize("name", ["attention_temperature", "position_scale"])
def test_an_hparam_that_is_dead_for_the_model_is_not_swept(refuse: Refuse, name: str) -> None:
    message = refuse(edited(MLP, "lr: {log", f"{name}: {{log"))
    assert message.startswith(f"{FILE}:7: search.space.{name}: has no effect: the model has no ")


def test_a_grid_over_a_continuous_range_is_refused(refuse: Refuse) -> None:
    message = refuse(edited(GPT, "trials: 4", "sampler: grid"))
    assert message == (
        f"{FILE}:9: search.space.lr: sampler grid needs choice or powers, but this is a continuous range"
    )


def test_powers_beyond_floating_point_are_refused(refuse: Refuse) -> None:
    assert refuse(space("lr: {powers: {start: 0, stop: 5000, step: 1000}}")).startswith(f"{FILE}:9: search.space.lr")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (f"space:\n    {RANGE}", "space: {}", "search.space"),
        (RANGE, "lr: {log_uniform: [1e-3]}", "search.space.lr.log_uniform"),
        (RANGE, "lr: {log_uniform: [1e-3, 1e-2, 1e-1]}", "search.space.lr.log_uniform"),
        (RANGE, "lr: {choice: []}", "search.space.lr.choice"),
        (RANGE, "lr: {choice: [true]}", "search.space.lr.choice.0"),
        (RANGE, "lr: {uniform: [0, 1]}", "search.space.lr"),
        ("name: tiny", f"name: {'x' * 101}", "name"),
    ],
)
def test_messages_speak_of_the_file_and_not_of_the_validator(refuse: Refuse, old: str, new: str, field: str) -> None:
    message = refuse(edited(GPT, old, new))
    assert len(message.splitlines()) == 1
    assert f": {field}: " in message
    assert not re.search(r"Dictionary|Tuple|Input|String|after validation|is required", message)


def test_overrides_apply_in_order_and_make_sections(load: Load) -> None:
    sets = ("training.steps=5", "training.steps=7", "hparams.clip=1e-2", "data.paths=[x, y]", "provenance=null")
    config = load(edited(GPT, "training: {steps: 12}\n", ""), *sets)
    assert (config.training.steps, config.hparams.clip, config.data.paths) == (7, 1e-2, ("x", "y"))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("training.steps", "write it as dotted.path=value, for example training.steps=50"),
        ("=5", "write it as dotted.path=value"),
        ("training..steps=5", "write it as dotted.path=value"),
        ("name.first=x", "name is not a section"),
        ("training.stepz=5", "training.stepz: unknown key; did you mean steps?"),
        ("optimiser.lr=5", "optimiser: unknown key"),
        ("hparams.lr=fast", "hparams.lr: must be a number, but got 'fast'"),
        ("model.width=8", "model.width: 8 is narrower than base_width 16"),
        ("training={a: 1, a: 2}", "a is given twice"),
    ],
)
def test_a_bad_override_is_refused_by_its_own_words(refuse: Refuse, assignment: str, problem: str) -> None:
    message = refuse(GPT, assignment)
    assert message.startswith(f"--set {assignment}:")
    assert problem in message
    assert FILE not in message


# A search file, relative to the config's folder.
SPACE = f"trials: 3\nspace:\n  {RANGE}\n"
NAMED = GPT.partition("search:")[0] + "search: sub/space.yaml\n"


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A config in a folder that is not the current one, naming a search file."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def writer(search: str | None, config: str = NAMED) -> Path:
        if search is not None:
            (home / "sub" / "space.yaml").write_text(search, encoding="utf-8")
        (home / FILE).write_text(config, encoding="utf-8")
        return Path("home", FILE)

    return writer


def test_a_search_file_is_found_beside_the_config(named: Callable[..., Path]) -> None:
    config = load_config(named(SPACE))
    assert config.require_search().trials == 3
    assert config.require_search().space["lr"].log_uniform == (1e-3, 1e-1)


@pytest.mark.parametrize(
    ("search", "line", "problem"),
    [
        (SPACE + "trials: 4\n", 4, "trials is given twice"),
        ("trials: [\n", 2, "YAML syntax error"),
        (SPACE.replace("3", "x", 1), 1, "trials: must be a whole number, but got 'x'"),
        (SPACE.replace("1e-1", "1e-9"), 3, "space.lr.log_uniform: low < high must hold"),
        (SPACE.replace("lr:", "lrr:"), 3, "search.space.lrr: is not an hparam; did you mean lr?"),
        (SPACE.replace("lr:", "momentum:"), 3, "search.space.momentum: "),
        (SPACE + "sampler: grid\n", 3, "space.lr: sampler grid needs choice or powers"),
        (SPACE + "samplre: tpe\n", 4, "samplre: unknown key; did you mean sampler?"),
        (SPACE.replace("log_uniform", "log_unifrm"), 3, "space.lr.log_unifrm: unknown key; did you mean log_uniform?"),
    ],
)
def test_an_error_in_a_search_file_points_at_that_file(
    named: Callable[..., Path], search: str, line: int, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^home/sub/space\.yaml:{line}: ") as caught:
        load_config(named(search))
    assert problem in str(caught.value)


def test_a_search_file_that_is_missing_is_named_with_the_line_that_names_it(named: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=rf"^home/{FILE}:6: search: no such file: home/sub/space\.yaml$"):
        load_config(named(None))


def test_a_field_of_a_search_file_can_be_overridden(named: Callable[..., Path]) -> None:
    assert load_config(named(SPACE), ["search.trials=9"]).require_search().trials == 9


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("confirm: 3", "search.confirm: must be a section (key: value lines), but got 3"),
        ("confirm: {top: -1}", "search.confirm.top: must be >= 0, but got -1"),
        ("confirm: {seeds: 0}", "search.confirm.seeds: must be > 0, but got 0"),
        ("confirm: {sedes: 1}", "search.confirm.sedes: unknown key; did you mean seeds?"),
    ],
)
def test_an_impossible_confirmation_is_refused_with_line_and_field(refuse: Refuse, line: str, problem: str) -> None:
    last = 7 + line.count("\n")
    assert refuse(edited(GPT, "trials: 4", line)) == f"{FILE}:{last}: {problem}"


def test_the_best_trial_is_confirmed_with_two_seeds_by_default(load: Load) -> None:
    def confirm(line: str) -> tuple[int, int]:
        found = load(edited(GPT, "trials: 4", line)).require_search().confirm
        return found.top, found.seeds

    assert confirm("trials: 4") == (1, 2)


@pytest.mark.parametrize(
    ("stages", "field", "problem"),
    [
        ("[{steps: 5}]", "", "needs two stages or more; a single horizon is training.steps"),
        ("5", "", "must be a list, but got 5"),
        ("[{steps: 5, keep: 0.5}, {keep: 0.5}]", ".0.keep", "has no effect: the first stage trains every trial"),
        ("[{steps: 5}, {steps: 12}]", ".1.keep", "is required: the share of the trials that goes on"),
        ("[{}, {steps: 12, keep: 0.5}]", ".0.steps", "is required; only the last stage may omit it"),
        ("[{steps: 5}, {steps: 5, keep: 0.5}]", ".1.steps", "must be more than the stage before's 5, but got 5"),
        ("[{steps: 5}, {steps: 9, keep: 0.5}]", ".1.steps",
         "must be training.steps (12), at which the winner is found, but got 9"),
        ("[{steps: 12}, {keep: 0.5}]", ".0.steps",
         "must be less than the last stage's, which is training.steps (12), but got 12"),
        ("[{steps: 5}, {keep: 1}]", ".1.keep", "must be < 1, but got 1"),
        ("[{steps: 5}, {keep: 0}]", ".1.keep", "must be > 0, but got 0"),
        ("[{stesp: 5}, {keep: 0.5}]", ".0.stesp", "unknown key; did you mean steps?"),
    ],
)  # fmt: skip
def test_impossible_stages_are_refused_with_line_and_field(
    refuse: Refuse, stages: str, field: str, problem: str
) -> None:
    text = edited(GPT, "trials: 4", f"stages: {stages}")
    assert refuse(text) == f"{FILE}:7: search.stages{field}: {problem}"


def test_stages_across_compute_settings_are_refused(refuse: Refuse) -> None:
    text = edited(space("lr: {choice: [0.1]}"), "trials: 4", "sampler: grid\n  across: {model.width: [16, 32]}")
    assert refuse(text + "  stages: [{steps: 5}, {keep: 0.5}]\n") == (
        f"{FILE}:11: search.stages: is impossible with across, where every point is a result"
    )


def test_stages_load_and_their_last_horizon_is_the_run_s(load: Load) -> None:
    config = load(edited(GPT, "trials: 4", "stages: [{steps: 5}, {keep: 0.5}]"), "training.steps=40")
    assert [(one.steps, one.keep) for one in config.require_search().stages or ()] == [(5, None), (None, 0.5)]


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["model.base_width=32"], "--set model.base_width=32: model.width: 16 is narrower than base_width 32"),
        (["data.kind=tokens"], "--set data.kind=tokens: data.path: is required"),
        (["training={steps: x}"], "--set training={steps: x}: training.steps: must be a whole number, but got 'x'"),
        (
            ["training.steps=5", "search.space.lr.uniform=[0, 1]"],
            "--set search.space.lr.uniform=[0, 1]: search.space.lr: give exactly one of",
        ),
        (
            ["model.base_width=32", "model.base_width=64"],
            "--set model.base_width=64: model.width: 16 is narrower than base_width 64",
        ),
    ],
)
def test_what_an_override_makes_wrong_elsewhere_is_blamed_on_it(
    refuse: Refuse, assignments: list[str], problem: str
) -> None:
    assert refuse(GPT, *assignments).startswith(problem)


def test_what_the_file_has_wrong_is_not_blamed_on_an_override(refuse: Refuse) -> None:
    wrong = GPT.replace("width: 16", "width: 20", 1)
    assert refuse(wrong, "training.steps=5").startswith("config.yaml:2: model.head_dim: 8 does not divide width 20")


@pytest.mark.parametrize("seconds", ["0.001", "0.99"])
def test_a_limit_that_would_end_every_worker_is_refused(refuse: Refuse, load: Load, seconds: str) -> None:
    message = refuse(GPT, f"search.hang_after={seconds}")
    assert ": search.hang_after: must be 1 (second) or more, as a step may take that long, or 0 to wait" in message
    assert message.endswith(f"but got {seconds}")
    assert load(GPT, "search.hang_after=1").require_search().hang_after == 1
    assert load(GPT, "search.hang_after=0").require_search().hang_after == 0
