"""The target's config: new compute settings, identical hparams, every reason for doubt."""

from __future__ import annotations

import pytest
import yaml

from mutransfer.config.load import load_config
from mutransfer.errors import ConfigError, NothingUsable, UsageError
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.transfer.reasons import reasons_against
from mutransfer.transfer.target import Overrides, make_target
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake, result


@pytest.fixture
def swept(gpt, tmp_path):
    config = build(gpt, search__trials=5, hparams__weight_decay=0.1)
    return run_sweep(config, runs=tmp_path / "runs", pack=1, executor=lambda: Scripted(fake))


def test_hparams_are_the_winners_and_compute_settings_the_users(swept):
    target = make_target(swept.folder, Overrides(width=64, depth=3, batch_size=8, seq_len=32, steps=99))
    proxy, config = target.proxy, target.config
    assert config.hparams == proxy.hparams.with_values(swept.selection.best.params).filled()
    assert (config.hparams.beta2, config.hparams.final_lr) == (0.95, 0.1)  # no later default can change them
    assert (config.model.width, config.model.depth, config.model.base_width) == (64, 3, 16)
    assert (config.training.batch_size, config.training.steps, config.data.seq_len) == (8, 99, 32)
    assert config.search is None
    assert set(target.changed) == {
        "model.width: 16 → 64", "model.depth: 1 → 3", "training.batch_size: 4 → 8", "training.steps: 12 → 99",
        "data.seq_len: 16 → 32",
    }  # fmt: skip
    best = swept.selection.best
    assert config.name == f"tiny-gpt-w64-d3-b8-s32-n99-t{best.number}"
    provenance = config.provenance
    assert (provenance.trial, provenance.proxy_loss, provenance.proxy_width) == (best.number, best.value, 16)
    assert provenance.config_hash == proxy.hash()
    assert provenance.seeds == {"search": 0, "training": 0}
    assert provenance.versions.keys() >= {"torch", "mutransfer", "optuna"}


def test_written_config_loads_as_it_was_planned(swept):
    target = make_target(swept.folder, Overrides(width=64))
    target.write()
    assert load_config(target.folder.config) == target.config
    before = target.folder.config.read_bytes()
    target.write()
    assert target.folder.config.read_bytes() == before


def test_another_config_in_its_place_is_kept(swept):
    target = make_target(swept.folder, Overrides(width=64))
    target.write()
    other = yaml.safe_load(target.folder.config.read_text())
    other["hparams"]["lr"] = 0.5
    target.folder.config.write_text(yaml.safe_dump(other))
    with pytest.raises(UsageError, match=r"(?s)is there already and differs.*hparams\.lr: 0\.5 → "):
        target.write()
    assert yaml.safe_load(target.folder.config.read_text()) == other


def test_median_and_numbered_trials(swept):
    ranking = [record.number for record in swept.selection.ranking]
    median = make_target(swept.folder, Overrides(width=64), trial="median")
    assert median.trial.number == ranking[2]
    assert any("is not the best one" in warning for warning in median.warnings)
    assert make_target(swept.folder, Overrides(width=64), trial=ranking[-1]).trial.number == ranking[-1]
    with pytest.raises(UsageError, match="--trial 77: is not a completed trial; the completed ones, best first, are"):
        make_target(swept.folder, Overrides(width=64), trial=77)


def test_narrower_than_base_is_refused(swept):
    with pytest.raises(UsageError, match="--width 8: is narrower than the base width 16"):
        make_target(swept.folder, Overrides(width=8))


def test_width_that_fits_no_head_is_refused_with_the_option(swept):
    with pytest.raises(ConfigError, match=r"model\.head_dim: 8 does not divide width 60"):
        make_target(swept.folder, Overrides(width=60))


def test_override_the_data_has_not_is_refused(mlp, tmp_path):
    found = run_sweep(build(mlp), runs=tmp_path, pack=1, executor=lambda: Scripted(fake))
    with pytest.raises(UsageError, match="--seq-len: data kind digits has no seq_len"):
        make_target(found.folder, Overrides(width=64, seq_len=8))


def test_nothing_completed_is_nothing_to_transfer(gpt, tmp_path):
    with pytest.raises(NothingUsable):
        run_sweep(build(gpt), runs=tmp_path, pack=1, executor=lambda: Scripted(lambda c, a: result(9.0, "diverged")))
    from mutransfer.sweep.folder import SweepFolder

    with pytest.raises(NothingUsable, match="no trial has completed"):
        make_target(SweepFolder(tmp_path / "tiny-gpt"), Overrides(width=64))


def test_reasons_against(gpt):
    big = {"width": 256, "base_width": 256, "depth": 4}
    gpt["model"].update(big)
    gpt["training"].update(steps=5000, batch_size=32)
    gpt["data"]["seq_len"] = 128
    proxy = build(gpt)
    assert reasons_against(proxy, build(gpt, model__width=1024)) == []

    def reasons(*, of=proxy, **changes):
        return "\n".join(reasons_against(of, build(gpt, **changes)))

    assert "steps changes from 5000 to 9000: the best lr depends on the horizon" in reasons(training__steps=9000)
    assert "batch_size changes from 32 to 64: the best lr depends on the batch size" in reasons(training__batch_size=64)
    assert "seq_len changes" in reasons(data__seq_len=256)
    assert "depth changes" in reasons(model__depth=8)
    assert "sp does not transfer" in reasons(parametrization="sp")
    assert "norm gains break transfer" in reasons(model__norm_gain=True)
    assert "not transferable" in reasons(hparams__weight_decay=0.1)
    small = build(gpt, training__steps=100, model__depth=2)
    assert "below the smallest that TP-V found to transfer well: depth 2 < 4, steps 100 < 5000" in reasons(of=small)
    assert "is narrower than the proxy (512)" in reasons(of=build(gpt, model__width=512))


def test_warnings_of_the_sweep_come_along(swept):
    warnings = make_target(swept.folder, Overrides(width=64)).warnings
    assert set(swept.selection.warnings) <= set(warnings)
    assert any("below the smallest" in warning for warning in warnings)


def test_tuning_cost_counts_every_step_of_every_trial(swept):
    target = make_target(swept.folder, Overrides(width=16))
    repeats = 0  # the fixture's search has none
    assert target.tuning_flops == (5 + repeats) * 12 * target.cost.flops_per_step
    assert target.cost.training_flops == 12 * target.cost.flops_per_step


def test_a_rule_in_place_of_a_reason_for_doubt(gpt, tmp_path):
    """A field that an optional rule scales along is told as a rule, and no longer as a doubt."""
    rules = {"depth": {"base_depth": 1}, "batch_size": {"base_batch_size": 4}, "horizon": {"base_steps": 12}}
    swept = run_sweep(build(gpt, rules=rules), runs=tmp_path / "ruled", pack=1, executor=lambda: Scripted(fake))
    target = make_target(swept.folder, Overrides(width=64, depth=4, batch_size=16, steps=24))
    assert [rule.split(":")[0] for rule in target.rules] == ["rules.depth", "rules.batch_size", "rules.horizon"]
    assert "every lr × 2 (batch size 16 = 4 × 4)" in target.rules[1]
    assert not [warning for warning in target.warnings if "changes from" in warning]
    plain = run_sweep(build(gpt), runs=tmp_path / "plain", pack=1, executor=lambda: Scripted(fake))
    other = make_target(plain.folder, Overrides(width=64, depth=4, batch_size=16, steps=24))
    assert other.rules == ()
    assert len([warning for warning in other.warnings if "changes from" in warning]) == 3
