"""Exports: the trainers' documented formulas, written down anew, give the plan back from the exported values."""

from __future__ import annotations

import json
import math

import pytest

from mutransfer.errors import UsageError
from mutransfer.models import plan_of
from mutransfer.parametrization.settings import settings
from mutransfer.training.schedules import Schedule
from mutransfer.transfer.export import EXPORTS, export_config
from tests.cli.conftest import invoke
from tests.conftest import build

WIDTH, BASE = 64, 16
TIED = {"model__tied_embeddings": True, "model__positions": "learned"}


def wide(gpt, **changes):
    hparams = {"hparams__temperature": 0.5, "hparams__init_scale": 1.5, "hparams__embedding_scale": 3.0,
               "hparams__attention_temperature": 2.0}  # fmt: skip
    return build(gpt, **{"model__width": WIDTH, "model__depth": 2, **hparams, **changes})


def flags_in(text):
    """What argparse would read from the file."""
    words = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: (value[0] if value else True) for name, *value in words}


def found(made):
    return {(one.quantity, one.weight): (one.ours, one.theirs) for one in made.differences}


def megatron(flags, sgd=False):
    """Megatron-LM d98e8a6: transformer_config.py's __post_init__, gpt_model.py's output_layer,
    language_model_embedding.py's forward, optimizer/__init__.py's get_mup_config_overrides and
    get_standard_config_overrides: {weight: (std, multiplier, lr, weight decay, eps)}, and the scale of q·k."""

    def number(name, default=None):
        return float(flags.get(f"--{name}", default))

    mult = number("hidden-size") / number("mup-base-hidden-size")
    out = number("mup-output-mult", 1.0)
    if out == 1.0 and mult != 1.0:
        out = 1.0 / mult
    hidden = number("init-method-std", 0.02) / mult**0.5
    residual = number("init-method-std", 0.02) / (2 * number("num-layers") * mult) ** 0.5
    table = number("embedding-init-method-std", flags["--init-method-std"])
    lr, wd, eps = number("lr"), number("weight-decay", 0.01), number("adam-eps", 1e-8)
    own = number("decoupled-lr", lr)
    vector, matrix, matrix_eps = (lr * mult, lr, eps) if sgd else (own, lr / mult, eps / mult)
    weights = {
        "embedding": (table, number("mup-embedding-mult", 1.0), vector, wd, eps),
        "readout": (table, out, vector, wd, eps),
        "attention.query": (hidden, 1.0, matrix, wd, matrix_eps),
        "attention.key": (hidden, 1.0, matrix, wd, matrix_eps),
        "attention.value": (hidden, 1.0, matrix, wd, matrix_eps),
        "attention.out": (residual, 1.0, matrix, wd, matrix_eps),
        "up": (hidden, 1.0, matrix, wd, matrix_eps),
        "down": (residual, 1.0, matrix, wd, matrix_eps),
    }
    if flags["--position-embedding-type"] == "learned_absolute":
        weights["position"] = (table, number("mup-embedding-mult", 1.0), lr * mult if sgd else lr, wd, eps)
    scale = number("mup-base-head-dim") ** 0.5 / number("kv-channels") ** number("mup-attn-scale-power", 1.0)
    return weights, scale


def nanogpt(values):
    """nanoGPT-mup b2a5e60: model.py's GPT.__init__, forward, configure_optimizers and CausalSelfAttention.forward, with
    init_std handed on: the same as above."""
    m, std, lr, wd = (values[name] for name in ("mup_width_multiplier", "init_std", "learning_rate", "weight_decay"))
    hidden = (std / math.sqrt(m), 1.0, lr / m, wd, 1e-8)
    residual = (std / math.sqrt(2 * values["n_layer"] * m), 1.0, lr / m, wd, 1e-8)
    weights = {
        "embedding": (std, values["mup_input_alpha"], lr, wd, 1e-8),
        "position": (std, values["mup_input_alpha"], lr, wd, 1e-8),
        "readout": (std, values["mup_output_alpha"] / m, lr, wd, 1e-8),
        "attention.query": hidden, "attention.key": hidden, "attention.value": hidden,
        "attention.out": residual, "up": hidden, "down": residual,
    }  # fmt: skip
    head = values["n_embd"] // values["n_head"]
    return weights, 1 / math.sqrt(head) if values["mup_disable_attention_scaling"] else 1 / head


def ours(config):
    """The same of this project, from the plan and the multipliers that its documentation states."""
    plan, h = plan_of(config), config.hparams
    optimizer = settings(plan, h).optimizer
    outputs = {"embedding": h.embedding_scale * (BASE**0.5 if config.model.tied_embeddings else 1.0),
               "position": h.position_scale, "readout": 1 / h.temperature}  # fmt: skip
    weights = {}
    for name, one in plan.parameters.items():
        kind = name.removesuffix(".weight").removeprefix("blocks.0.")
        if not kind.startswith("blocks"):
            own = optimizer[one.tied_to or name]
            multiplier = one.forward * outputs.get(kind, 1.0)
            weights[kind] = (one.init_std * h.init_scale, multiplier, own.lr, own.weight_decay, own.eps)
    return weights, plan.attention["blocks.0.attention"] / h.attention_temperature


def expected_differences(mine, others, *, sgd=False):
    """Products that the symmetry of TP-V's Lemma J.1 leaves alone, where they differ."""

    def products(std, multiplier, lr, wd, eps):
        return {
            "initial std in effect": std * multiplier,
            "peak lr in effect": lr * multiplier ** (2 if sgd else 1),
            "lr × weight decay": lr * wd,
            **({} if sgd else {"ε in effect": eps / multiplier}),
        }

    differing = {
        (quantity, weight): (value, products(*others[0][weight])[quantity])
        for weight, numbers in mine[0].items()
        for quantity, value in products(*numbers).items()
    }
    differing["scale", "q·k"] = (mine[1], others[1])
    return {key: pair for key, pair in differing.items() if pair[0] != pytest.approx(pair[1], rel=1e-5)}


MEGATRON_CASES = {
    "untied": {},
    "untied with decay": {"hparams__weight_decay": 0.1},
    "untied, own embedding lr": {"hparams__embedding_lr": 4.0},
    "tied": TIED,
    "tied, own embedding lr": {**TIED, "hparams__embedding_lr": 4.0, "hparams__weight_decay": 0.1},
    "heads that widen": {"model__head_dim": None, "model__heads": 2},
    "random readout": {"model__zero_readout": False, "model__zero_query": False},
    "sgd": {"hparams__optimizer": "sgd", "hparams__embedding_lr": 4.0},
    "sgd with decay": {"hparams__optimizer": "sgd", "hparams__weight_decay": 0.1},
    "multiplier of one": {"hparams__temperature": BASE / WIDTH},
    "base width": {"model__width": BASE},
    "batch rule": {"rules__batch_size": {"base_batch_size": 1}},
    "lookup rule": {"rules__embedding_lr_exponent": -0.5},
    "independent decay": {"hparams__weight_decay": 1e-3, "rules__weight_decay": "independent"},
}


@pytest.mark.parametrize("case", MEGATRON_CASES)
def test_megatrons_formulas_and_ours_differ_where_the_export_says_and_nowhere_else(gpt, case):
    config = wide(gpt, **MEGATRON_CASES[case])
    sgd = config.hparams.optimizer == "sgd"
    made = export_config(config, "megatron")
    expected = expected_differences(ours(config), megatron(flags_in(made.text), sgd), sgd=sgd)
    assert found(made).keys() == expected.keys()
    for key, pair in expected.items():
        assert found(made)[key] == pytest.approx(pair, rel=1e-5)
        assert any(key[0] in note and key[1] in note for note in made.notes)
    # What transfers is exact whatever the case: lr of hidden matrices and of the readout, attention, embeddings' size.
    exact = {("peak lr in effect", weight) for weight in ("attention.key", "up", "down", "readout")}
    exact |= {("initial std in effect", weight) for weight in ("embedding", "attention.key", "attention.value", "up")}
    exact |= {("scale", "q·k"), ("lr × weight decay", "attention.key")}
    if "lookup" not in case:
        assert not exact & expected.keys()


@pytest.mark.parametrize("case", [{}, {"hparams__weight_decay": 0.1}, {"hparams__attention_temperature": 1.0},
                                  {"hparams__embedding_lr": 2.0}, {"model__width": BASE},
                                  {"hparams__position_scale": 3.0}])  # fmt: skip
def test_nanogpts_formulas_and_ours_differ_where_the_export_says_and_nowhere_else(gpt, case):
    config = wide(gpt, **{**TIED, **case})
    made = export_config(config, "nanogpt-mup")
    values: dict[str, object] = {}
    exec(compile(made.text, "config.py", "exec"), values)
    expected = expected_differences(ours(config), nanogpt(values))
    assert found(made).keys() == expected.keys()
    for key, pair in expected.items():
        assert found(made)[key] == pytest.approx(pair, rel=1e-5)
    exact = {("initial std in effect", weight) for weight in ("embedding", "readout", "attention.key", "up")}
    exact |= {("peak lr in effect", weight) for weight in ("attention.key", "up", "down", "attention.out")}
    assert not exact & expected.keys()
    assert (("scale", "q·k") in expected) == (config.hparams.attention_temperature != 1)


def test_weight_decay_unscaled_is_said_with_the_value_to_give(gpt):
    made = export_config(wide(gpt, hparams__weight_decay=0.1), "megatron")
    assert flags_in(made.text)["--weight-decay"] == "0.4"  # λ · m
    assert any("leaves weight decay unscaled: --weight-decay 0.4" in note for note in made.notes)
    assert not any("decay" in note for note in export_config(wide(gpt), "megatron").notes)


def test_schedules_are_the_same_from_the_end_of_the_warmup_on(gpt):
    """Against Megatron-LM's OptimizerParamScheduler.get_lr, whose num_steps is 0 in the first iteration."""
    for schedule, final in (("cosine", 0.2), ("linear", 0.0), ("constant", None)):
        config = wide(gpt, hparams__schedule=schedule, hparams__warmup=0.25,
                      **({} if final is None else {"hparams__final_lr": final}))  # fmt: skip
        flags = flags_in(export_config(config, "megatron").text)
        top, low, warm, end = (float(flags[f"--{n}"]) for n in ("lr", "min-lr", "lr-warmup-iters", "lr-decay-iters"))
        for step in range(3, 12):
            ratio = (step - warm) / (end - warm)
            shape = {"constant": top, "linear": low + (1 - ratio) * (top - low),
                     "cosine": low + 0.5 * (math.cos(math.pi * ratio) + 1) * (top - low)}  # fmt: skip
            assert shape[schedule] == pytest.approx(config.hparams.lr * Schedule.of(config.hparams, 12).factor(step))
    config = wide(gpt, **TIED, hparams__schedule="constant")
    values: dict[str, float] = {}
    exec(compile(export_config(config, "nanogpt-mup").text, "config.py", "exec"), values)  # type: ignore[arg-type]
    assert values["min_lr"] == values["learning_rate"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("megatron", {"hparams__optimizer": "muon"}, "Megatron-LM cannot express hparams.optimizer muon"),
        (
            "megatron",
            {"hparams__schedule": "step"},
            "Megatron-LM cannot express hparams.schedule step: it has constant",
        ),
        ("megatron", {"parametrization": "sp"}, "cannot express parametrization sp"),
        ("megatron", {"rules__depth": {"base_depth": 1}}, "cannot express rules.depth"),
        ("megatron", {"hparams__schedule": "inverse_sqrt", "hparams__warmup": 0.0}, "needs hparams.warmup"),
        ("megatron", {"model__positions": "relative"}, "positions that are rotary or learned"),
        ("megatron", {"model__norm": "rmsnorm"}, r"LayerNorm \(model.norm: layernorm\)"),
        ("megatron", {"model__mlp": "swiglu"}, r"\(model.mlp: gelu\)"),
        ("megatron", {"model__kv_group": 2, "model__head_dim": 8}, r"a key and a value per head \(no model.kv_group\)"),
        ("megatron", {"model__qk_norm": True}, r"\(model.qk_norm: false\)"),
        ("nanogpt-mup", {**TIED, "model__norm": "rmsnorm"}, r"LayerNorm \(model.norm: layernorm\)"),
        ("nanogpt-mup", {"hparams__optimizer": "sgd"}, "nanoGPT-mup cannot express hparams.optimizer sgd"),
        ("nanogpt-mup", {**TIED, "hparams__schedule": "linear"}, "cannot express hparams.schedule linear"),
        ("nanogpt-mup", {}, r"always has tied embeddings \(model.tied_embeddings: true\) and learned positions"),
    ],
)
def test_what_a_trainer_has_no_words_for_is_refused(gpt, form, changes, message):
    with pytest.raises(UsageError, match=message):
        export_config(wide(gpt, **changes), form)


def test_another_model_is_written_by_force_and_said_to_be_one(gpt):
    made = export_config(wide(gpt, model__mlp_ratio=2), "nanogpt-mup", force=True)
    assert [note for note in made.notes if note.startswith("another model")] == [
        "another model than the proxy: nanoGPT-mup always has tied embeddings",
        "another model than the proxy: nanoGPT-mup always has learned positions",
        "another model than the proxy: nanoGPT-mup always has feed-forward layers of 4 × the width",
    ]


def test_by_force_a_model_with_weights_that_the_trainer_lacks_is_written_too(gpt):
    made = export_config(wide(gpt, model__mlp="swiglu", model__positions="relative"), "nanogpt-mup", force=True)
    assert any("two matrices around a gelu" in note for note in made.notes)
    assert not any(one.weight == "gate" for one in made.differences)


def test_an_mlp_goes_into_json_only(mlp):
    config = build(mlp, model__width=64)
    with pytest.raises(UsageError, match=r"cannot express model\.kind mlp"):
        export_config(config, "megatron")
    content = json.loads(export_config(config, "json").text)
    rows = {row["name"]: row for row in content["parameters"]}
    assert rows["layers.1.weight"]["role"] == "hidden"
    assert rows["layers.0.weight"]["lr"] == pytest.approx(4 * rows["layers.0.weight"]["base_lr"])


@pytest.mark.parametrize("changes", [{}, TIED, {**TIED, "hparams__embedding_lr": 2.0, "hparams__weight_decay": 0.1}])
def test_json_has_the_plan_number_by_number(gpt, changes):
    config = wide(gpt, **changes)
    content = json.loads(export_config(config, "json").text)
    weights, scale = ours(config)
    rows = {row["name"].removesuffix(".weight").removeprefix("blocks.0."): row for row in content["parameters"]}
    for kind, (std, multiplier, lr, wd, eps) in weights.items():
        row = rows[kind]
        got = (
            row["init_std"],
            row["input_multiplier"] * row["output_multiplier"],
            row["lr"],
            row["weight_decay"],
            row["eps"],
        )
        assert got == pytest.approx((std, multiplier, lr, wd, eps))
    assert content["attention_scale"]["blocks.0.attention"] == pytest.approx(scale)
    assert content["hparams"]["beta2"] == 0.95


def test_the_command_writes_prints_and_overwrites_nothing(gpt, write, tmp_path):
    gpt["model"]["width"] = WIDTH
    path, out = str(write(gpt)), tmp_path / "flags.txt"
    code, stdout, stderr = invoke("export", path, "--format", "megatron")
    assert code == 0
    assert "--use-mup\n" in stdout
    assert "note: its norms have gains" in stderr
    assert invoke("export", path, "--format", "megatron", "--out", str(out))[0] == 0
    assert out.read_text() == stdout
    code, answer, _ = invoke("export", path, "--format", "megatron", "--out", str(out), "--json")
    assert code == 0
    assert json.loads(answer)["settings"]["mup-base-hidden-size"] == BASE
    code, _, stderr = invoke("export", path, "--format", "json", "--out", str(out))
    assert (code, "is there already and differs" in stderr) == (2, True)
    assert out.read_text() == stdout
    code, _, stderr = invoke("export", "gone", "--format", "json", "--runs", str(tmp_path))
    assert (code, "or a target in" in stderr) == (2, True)


def test_every_format_is_on_the_command_line_and_has_notes(gpt):
    _, shown, _ = invoke("export", "--help")
    assert all(name in shown for name in EXPORTS.built_in)
    with pytest.raises(UsageError, match="there is no such export format; the names are json, megatron, nanogpt-mup"):
        export_config(wide(gpt), "yaml")
    for name in EXPORTS:
        made = export_config(wide(gpt, **TIED), name)
        assert made.notes
        assert all(note in made.text for note in made.notes)
