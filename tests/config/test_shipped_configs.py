"""Every config, template and search space in the repository loads and says what it claims to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from mutransfer.config.load import load_config, validate
from mutransfer.config.models import MODELS
from mutransfer.config.schema import RunConfig
from mutransfer.config.search import SearchSection
from mutransfer.config.source import parse_yaml, read_yaml
from mutransfer.config.templates import template
from mutransfer.errors import PlanError
from mutransfer.models import plan_of
from tests.config.conftest import GPT
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
KINDS = list(MODELS.built_in)


def sweep(name: str) -> SearchSection:
    return SearchSection.model_validate(read_yaml(REPOSITORY / "sweeps" / f"{name}.yaml").data)


def values(name: str, hparam: str) -> tuple[Any, ...]:
    found = sweep(name).space[hparam].values
    assert found is not None
    return found


def from_text(text: str) -> RunConfig:
    return validate(parse_yaml(text, "template"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_from_any_folder_and_can_be_swept(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    assert config.require_search().trial_count >= 16
    assert config.parametrization == "mup"
    assert config.model.width == config.model.base_width


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_can_be_planned_at_twice_its_width(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # which configs/llama.yaml and configs/module-example.yaml are run from
    monkeypatch.syspath_prepend(str(REPOSITORY))
    config = load_config(path)
    config = load_config(path, [f"model.width={2 * config.model.width}"])
    if not config.trainer.inspectable:
        with pytest.raises(PlanError, match="model kind command has no plan"):
            plan_of(config)
        return
    if config.model.kind == "huggingface":
        pytest.importorskip("safetensors")  # of the extra hf; transformers itself is imported with care (torchvision)
    plan = plan_of(config)
    assert plan.width_multiplier == 2
    assert {one.role for one in plan.parameters.values()} >= {"input", "hidden", "output"}
    assert plan.warnings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_kind_has_a_template_that_can_be_swept(kind: str) -> None:
    config = from_text(template(kind))
    assert config.model.kind == kind
    assert config.require_search().trial_count == 16


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "command"])  # which brings its own data
def test_data_that_a_template_offers_in_a_comment_fits_its_model(kind: str) -> None:
    offered = re.findall(r"# .*?(\{kind: .*\})", template(kind))
    assert offered
    for text in offered:
        other = re.sub(r"(?m)^data:\n(?: .*\n)+", f"data: {text}\n", template(kind))
        assert from_text(other).data.kind in ("tokens", "parquet-images", "translation")


def test_the_fields_that_the_gpt_template_has_as_comments_are_valid() -> None:
    commented = r"(?m)^( +)# (clip|weight_decay|attention_temperature|schedule):"
    text, count = re.subn(commented, r"\1\2:", template("gpt"))
    assert count == 4
    config = from_text(text)
    assert (config.hparams.clip, config.hparams.weight_decay) == (1.0, 0.1)
    assert {"attention_temperature", "schedule"} <= set(config.require_search().space)


def test_there_are_search_spaces_of_our_own_and_of_tpv() -> None:
    assert {path.stem for path in SWEEPS} >= {"default", "mlp-sgd", "tpv-bert", "tpv-gpt3", "tpv-iwslt"}


BERT = """\
name: tiny
model: {kind: bert, width: 16, base_width: 16, depth: 1, head_dim: 8, bias: true, norm_gain: true}
data: {kind: text, paths: [a.txt], seq_len: 16, mask: 0.15}
"""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_search_space_works_as_the_search_of_a_model(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    text = BERT if path.stem == "tpv-bert" else GPT.partition("search:")[0]
    text = text.replace("depth: 1, head_dim: 8}", "depth: 1, head_dim: 8, positions: relative}")
    config.write_text(text + f"search: {path}\n", encoding="utf-8")
    assert load_config(config).search == SearchSection.model_validate(read_yaml(path).data)


@pytest.mark.parametrize(
    ("name", "trials", "ranges"),
    [
        ("default", 16, {"lr": (1e-4, 1e-1), "init_scale": (0.1, 10), "temperature": (0.03, 3)}),
        ("mlp-sgd", 16, {"lr": (1e-3, 1), "init_scale": (0.1, 10), "temperature": (0.25, 4)}),
        (
            "tpv-gpt3",  # lr 10^U(-4,-1); multipliers 10^U(-1,1); temperatures 4^U(-1,1); 350 short runs
            350,
            {"lr": (10**-4, 10**-1), "init_scale": (0.1, 10), "embedding_scale": (0.1, 10),
             "relative_scale": (0.1, 10), "attention_temperature": (4**-1, 4), "temperature": (4**-1, 4)},
        ),
    ],
)  # fmt: skip
def test_continuous_spaces_have_their_published_log_ranges(
    name: str, trials: int, ranges: dict[str, tuple[float, float]]
) -> None:
    search = sweep(name)
    assert search.trials == trials
    assert search.sampler == "random"
    assert {hparam: drawn.log_uniform for hparam, drawn in search.space.items()} == ranges


def test_iwslt_learning_rates_are_the_twelve_published_ones() -> None:
    rates = values("tpv-iwslt", "lr")
    assert rates == pytest.approx([5e-4 * 2 ** (z / 4) for z in range(-6, 6)], rel=1e-12)
    assert (len(rates), rates[0], rates[-1]) == (12, 5e-4 * 2**-1.5, 5e-4 * 2**1.25)


def test_bert_searches_the_six_hparams_that_tpv_searched_in_256_trials() -> None:
    six = {"lr", "temperature", "attention_temperature", "embedding_lr", "norm_gain_lr", "bias_lr"}
    shipped = load_config(REPOSITORY / "configs" / "bert-wikitext2.yaml").require_search()
    assert set(sweep("tpv-bert").space) == set(shipped.space) == six
    assert sweep("tpv-bert").trials == 256
    for name in ("embedding_lr", "norm_gain_lr", "bias_lr"):
        assert math.prod(values("tpv-bert", name)) == pytest.approx(1)  # around 1, which is what TP-V's rule says


def test_bert_learning_rates_are_the_five_published_ones() -> None:
    assert values("tpv-bert", "lr") == pytest.approx([1e-4 * 2**z for z in (1.5, 2, 2.5, 3, 3.5)], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "alphas"), [("tpv-iwslt", [2.0**z for z in range(-8, 8)]), ("tpv-bert", [2.0**2, 2.0**4, 2.0**6])]
)
def test_temperature_is_one_over_the_published_output_multiplier(name: str, alphas: list[float]) -> None:
    assert sorted(1 / value for value in values(name, "temperature")) == alphas


@pytest.mark.parametrize(
    ("name", "alphas"),
    [("tpv-iwslt", [2.0**z for z in range(-3, 9)]), ("tpv-bert", [2.0**z for z in range(3, 8)])],
)
def test_attention_temperature_is_the_root_of_head_size_64_over_the_published_multiplier(
    name: str, alphas: list[float]
) -> None:
    assert sorted(math.sqrt(64) / value for value in values(name, "attention_temperature")) == alphas
