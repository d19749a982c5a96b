"""Every model of the project, held to the contract. A new kind is an entry in `CASES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from configs.my_model import Model
from mutransfer.config.models import MODELS
from mutransfer.parametrization.rules import Role
from mutransfer.testing.models import ModelCase, ModelContract
from tests.conftest import TEXT, write_pairs

SECTIONS = {name: MODELS.load(name) for name in MODELS.built_in if MODELS.load(name).trainer.inspectable}


def text(folder: Path) -> dict[str, Any]:
    """Token sequences."""
    (folder / "corpus.txt").write_text(TEXT, encoding="utf-8")
    return {"kind": "text", "paths": [str(folder / "corpus.txt")], "seq_len": 16}


def digits(folder: Path) -> dict[str, Any]:
    """Features with a class."""
    pytest.importorskip("sklearn")
    return {"kind": "digits"}


def pairs(folder: Path) -> dict[str, Any]:
    """Sentences and their translations, most of them shorter than the longest."""
    write_pairs(folder / "pairs.jsonl")
    path = str(folder / "pairs.jsonl")
    tokenizer = {"kind": "words", "vocab_size": 40}
    return {
        "kind": "translation", "path": path, "source_field": "de", "target_field": "en", "tokenizer": tokenizer,
        "seq_len": 12,
    }  # fmt: skip


def masked(folder: Path) -> dict[str, Any]:
    """Token sequences some of whose tokens are to be guessed."""
    return {**text(folder), "mask": 0.25}


GPT: dict[str, Any] = {"kind": "gpt", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8}
MLP: dict[str, Any] = {"kind": "mlp", "width": 16, "base_width": 16, "depth": 2}
SEQ2SEQ: dict[str, Any] = {"kind": "seq2seq", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8}
BERT: dict[str, Any] = {"kind": "bert", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8}
RESNET: dict[str, Any] = {"kind": "resnet", "width": 8, "base_width": 8, "blocks": [1, 1]}
GPT_ROLES: dict[str, Role] = {"embedding.weight": "input", "readout.weight": "output"}
RELATIVE: dict[str, Any] = {**GPT, "positions": "relative", "relative_buckets": 8, "relative_distance": 12}
FIXED = {"head_dim": None, "heads": 2}
GROUPED = {**GPT, "width": 32, "base_width": 32}
MODERN = {
    **GROUPED, "norm": "rmsnorm", "mlp": "swiglu", "mlp_ratio": 3, "kv_group": 2, "qk_norm": True,
}  # fmt: skip
# The least width of a gpt's check is 32, so that heads have to fit it; or 64, where heads widen.
WIDE_HEADS = {"head_dim": 16}
WIDER: dict[str, Any] = {"check_at": {"width": 64, "base_width": 64}}

OWN: dict[str, Any] = {
    "kind": "module", "factory": "configs.my_model:build", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8,
}  # fmt: skip
CONFIGS = Path(__file__).parent / "configs"
HF_GPT2: dict[str, Any] = {
    "kind": "huggingface", "config": str(CONFIGS / "gpt2.json"), "width": 16, "base_width": 16,
}  # fmt: skip
HF_PHI = {**HF_GPT2, "config": str(CONFIGS / "phi.json"), "width": 32, "base_width": 32}


def doubled(width: int, vocab_size: int, seq_len: int, depth: int, head_dim: int) -> nn.Module:
    """The module of `OWN`, with a loss of its own: twice the usual one."""

    class Doubled(Model):
        def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * F.cross_entropy(super().forward(tokens).flatten(0, 1), targets.flatten())

    return Doubled(width, vocab_size, seq_len, depth, head_dim, 2)


CASES: dict[str, ModelCase] = {
    "module": ModelCase(
        model=OWN,
        data=text,
        roles={"embedding.weight": "input", "position.weight": "input", "head.weight": "output", "head.bias": "scalar",
               "*.bias": "vector", "blocks.*.weight": "hidden"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "factory": {"factory": "tests.models.test_contract:doubled", "loss": "returned"},
            "loss": {"factory": "tests.models.test_contract:doubled", "loss": "returned"},
            "zero_readout": {"zero_readout": False},
            "roles": {"roles": {"blocks.0.down.weight": "input"}},
            "as_made": {"as_made": ["blocks.0.down"]},
            "init_std": {"init_std": {"embedding.weight": 0.5}},
        },
        refused=(
            ({"factory": "configs/my_model.py"}, "must be written package.file:function"),
            ({"loss": "hinge"}, "must be 'cross_entropy', 'mse' or 'returned', but got 'hinge'"),
            ({"roles": {"head.weight": "readout"}}, "'input', 'hidden', 'output', 'vector' or 'scalar'"),
            ({"init_std": {"head.weight": -1.0}}, "greater than or equal to 0"),
            ({"depth": None}, "remove the key"),
        ),
        check_at={"head_dim": 16},
    ),
    "huggingface-gpt2": ModelCase(
        model=HF_GPT2,
        data=text,
        roles={"transformer.w*.weight": "input", "lm_head.weight": "output", "*.bias": "vector", "*.weight": "hidden"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "depth": {"depth": 2},
            "dropout": {"dropout": True},
            "norm_gain": {"norm_gain": True},
            "overrides": {"overrides": {"layer_norm_epsilon": 0.1}},
        },
        check_at={"width": 64, "base_width": 64},
    ),
    "huggingface-phi": ModelCase(
        model=HF_PHI,
        data=text,
        roles={"model.embed_tokens.weight": "input", "lm_head.weight": "output", "lm_head.bias": "scalar",
               "*.bias": "vector", "*.weight": "hidden"},
        changes={
            "config": {"config": str(CONFIGS / "gpt2.json")},
            "grow": {"grow": "head_dim"},
            "width_fields": {"width_fields": {"intermediate_size": 3}},
            "zero_readout": {"zero_readout": False},
            "zero_query": {"zero_query": False},
            "roles": {"roles": {"model.layers.0.mlp.fc1.weight": "input"}},
        },
        refused=(
            ({"width_fields": {"hidden_size": 0}}, "positive number or a fraction"),
            ({"width_fields": {"intermediate_size": "a/b"}}, "positive number or a fraction"),
            ({"width_fields": {"a": 1}, "overrides": {"a": 1}}, "is in width_fields too"),
        ),
    ),
    "mlp": ModelCase(
        model=MLP,
        data=digits,
        roles={"layers.0.weight": "input", "layers.1.weight": "hidden", "readout.bias": "scalar", "*.bias": "vector",
               "readout.weight": "output"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "depth": {"depth": 3},
            "activation": {"activation": "gelu"},
            "bias": {"bias": False},
            "zero_readout": {"zero_readout": False},
        },
        hparams={"optimizer": "sgd", "lr": 0.1},
        training={"steps": 12, "batch_size": 64, "eval_batches": 2},
        check_at={"width": 64, "base_width": 64},
    ),
    "gpt": ModelCase(
        model=GPT,
        data=text,
        roles={**GPT_ROLES, "blocks.*.weight": "hidden"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "depth": {"depth": 2},
            "head_dim": {"head_dim": 4},
            "heads": {"head_dim": None, "heads": 2},
            "kv_group": {"kv_group": 2},
            "qk_norm": {"qk_norm": True, "zero_query": False},
            "mlp": {"mlp": "swiglu"},
            "mlp_ratio": {"mlp_ratio": 2},
            "norm": {"norm": "rmsnorm"},
            "positions": {"positions": "learned"},
            "tied_embeddings": {"tied_embeddings": True},
            "norm_gain": {"norm_gain": True},
            "zero_readout": {"zero_readout": False},
            "zero_query": {"zero_query": False},
        },
        refused=(
            ({"heads": 2}, "exactly one of head_dim"),
            ({"head_dim": 1}, "rotary needs an even head size"),
            ({"tied_embeddings": True, "zero_readout": True}, "the embedding is the readout"),
            ({"qk_norm": True, "zero_query": True}, "a normalised zero has no direction"),
            ({"kv_heads": 1, "kv_group": 1}, "not both"),
            ({"kv_heads": 1}, "no rule transfers .*: write kv_group: 2 instead .*, or heads: 2 instead of head_dim"),
            ({"head_dim": None, "heads": 2, "kv_heads": 4}, "4 does not divide the number of heads, which is 2"),
            ({"width": 32, "kv_group": 4}, "4 does not divide the number of heads, which is 2 at base_width 16"),
            ({"relative_buckets": 8}, "no effect: model.positions is rotary"),
            ({"positions": "learned", "relative_distance": 64}, "no effect: model.positions is learned"),
        ),
        check_at=WIDE_HEADS,
    ),
    "bert": ModelCase(
        model=BERT,
        data=masked,
        roles={"embedding.weight": "input", "position.weight": "input", "readout.weight": "output",
               "blocks.*.weight": "hidden"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "depth": {"depth": 2},
            "head_dim": {"head_dim": 4},
            "heads": {"head_dim": None, "heads": 2},
            "mlp_ratio": {"mlp_ratio": 2},
            "tied_embeddings": {"tied_embeddings": True},
            "norm_gain": {"norm_gain": True},
            "bias": {"bias": True},
            "zero_readout": {"zero_readout": False},
            "zero_query": {"zero_query": False},
        },
        refused=(
            ({"heads": 2}, "exactly one of head_dim"),
            ({"tied_embeddings": True, "zero_readout": True}, "the embedding is the readout"),
        ),
        check_at=WIDE_HEADS,
    ),
    "bert-tied": ModelCase(
        model={**BERT, "tied_embeddings": True, "norm_gain": True, "bias": True},
        data=masked,
        roles={"embedding.weight": "input", "position.weight": "input", "readout.weight": "output",
               "readout.bias": "scalar", "*norm.weight": "vector", "*.bias": "vector", "*.weight": "hidden"},
        check_at=WIDE_HEADS,
    ),
    "resnet": ModelCase(
        model=RESNET,
        data=digits,
        roles={"stem.weight": "input", "readout.weight": "output", "readout.bias": "scalar", "stages.*": "hidden"},
        changes={
            "width": {"width": 32},
            "base_width": {"base_width": 4},
            "blocks": {"blocks": [1, 2]},
            "norm": {"norm": "group"},
            "norm_gain": {"norm_gain": True},
            "zero_readout": {"zero_readout": False},
        },
        refused=(
            ({"group_size": 4}, "no effect with norm batch"),
            ({"norm": "group", "group_size": 3}, "3 does not divide"),
        ),
        hparams={"optimizer": "sgd", "lr": 0.1},
        training={"steps": 12, "batch_size": 16, "eval_batches": 2},
        check_at={"width": 16, "base_width": 16},
    ),
    "resnet-group": ModelCase(
        model={**RESNET, "norm": "group", "norm_gain": True},
        data=digits,
        roles={"stem.weight": "input", "readout.weight": "output", "readout.bias": "scalar", "*norm.*": "vector",
               "stages.*": "hidden"},
        changes={"group_size": {"group_size": 4}},
        hparams={"optimizer": "sgd", "lr": 0.1},
        training={"steps": 12, "batch_size": 16, "eval_batches": 2},
        check_at={"width": 16, "base_width": 16},
    ),
    "seq2seq": ModelCase(
        model=SEQ2SEQ,
        data=pairs,
        roles={"*.embedding.weight": "input", "readout.weight": "output", "*coder.blocks.*.weight": "hidden"},
        changes={
            "width": {"width": 64},
            "base_width": {"base_width": 8},
            "depth": {"depth": 2},
            "head_dim": {"head_dim": 4},
            "heads": {"head_dim": None, "heads": 2},
            "mlp_ratio": {"mlp_ratio": 2},
            "positions": {"positions": "learned"},
            "tied_embeddings": {"tied_embeddings": True},
            "norm_gain": {"norm_gain": True},
            "bias": {"bias": True},
            "zero_readout": {"zero_readout": False},
            "zero_query": {"zero_query": False},
            "label_smoothing": {"label_smoothing": 0.1},
        },
        refused=(
            ({"heads": 2}, "exactly one of head_dim"),
            ({"heads": 3, "head_dim": None}, "3 does not divide width"),
            ({"tied_embeddings": True, "zero_readout": True}, "the embedding is the readout"),
        ),
        check_at=WIDE_HEADS,
    ),
    "seq2seq-tied": ModelCase(
        model={**SEQ2SEQ, "tied_embeddings": True, "positions": "learned", "norm_gain": True, "bias": True},
        data=pairs,
        roles={"*.embedding.weight": "input", "*.position.weight": "input", "readout.weight": "output",
               "readout.bias": "scalar", "*norm.weight": "vector", "*.bias": "vector", "*.weight": "hidden"},
        check_at={**WIDE_HEADS, "width": 64, "base_width": 64},
        check={"sizes": [64, 128, 256, 512]},  # below 64 the logits of cross attention still shrink like width^-0.16
    ),
    "gpt-learned": ModelCase(
        model={**GPT, "positions": "learned", "norm_gain": True, "zero_query": False},
        data=text,
        roles={**GPT_ROLES, "position.weight": "input", "*norm.weight": "vector", "blocks.*.weight": "hidden"},
        check_at=WIDE_HEADS,
    ),
    "gpt-relative": ModelCase(
        model=RELATIVE,
        data=text,
        roles={**GPT_ROLES, "*.relative.weight": "vector", "blocks.*.weight": "hidden"},
        changes={
            "relative_buckets": {"relative_buckets": 4},
            "relative_distance": {"relative_distance": 5},
            "positions": {"positions": "rotary", "relative_buckets": None, "relative_distance": None},
        },
        refused=(
            ({"relative_buckets": 1}, "greater than or equal to 2"),
            ({"relative_distance": 4}, "4 must be more than half of relative_buckets, which is 8"),
        ),
        check_at={**WIDER["check_at"], **WIDE_HEADS},
    ),
    "gpt-relative-in-fixed-heads": ModelCase(
        model={**RELATIVE, **FIXED},
        data=text,
        roles={**GPT_ROLES, "*.relative.weight": "scalar", "blocks.*.weight": "hidden"},
        **WIDER,
    ),
    "gpt-grouped": ModelCase(
        model={**GROUPED, "kv_group": 2},
        data=text,
        roles={**GPT_ROLES, "blocks.*.weight": "hidden"},
        changes={"kv_group": {"kv_group": 4}},
        check_at={"head_dim": 8},
    ),
    "gpt-fixed-keys": ModelCase(
        model={**GROUPED, "head_dim": None, "heads": 4, "kv_heads": 1},
        data=text,
        roles={**GPT_ROLES, "blocks.*.weight": "hidden"},
        changes={"kv_heads": {"kv_heads": 2}},
        **WIDER,
    ),
    "gpt-modern": ModelCase(
        model=MODERN,
        data=text,
        roles={**GPT_ROLES, "blocks.*.weight": "hidden"},
        changes={
            "mlp": {"mlp": "gelu"},
            "qk_norm": {"qk_norm": False},
            "zero_query": {"qk_norm": False, "zero_query": True},
        },
    ),
    "gpt-modern-in-fixed-heads": ModelCase(
        model={**MODERN, "head_dim": None, "heads": 4, "norm_gain": True},
        data=text,
        roles={**GPT_ROLES, "*norm.weight": "vector", "blocks.*.weight": "hidden"},
        **WIDER,
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def _case(request: pytest.FixtureRequest) -> ModelCase:
    return CASES[request.param]


class TestModels(ModelContract):
    @pytest.fixture
    def case(self, _case: ModelCase) -> ModelCase:
        return _case


def test_every_kind_is_held_to_the_contract() -> None:
    assert {case.model["kind"] for case in CASES.values()} == set(SECTIONS)


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_field_of_a_kind_is_changed_in_some_case(kind: str) -> None:
    changed = {name for case in CASES.values() if case.model["kind"] == kind for name in case.changes}
    assert changed == set(SECTIONS[kind].model_fields) - {
        "kind",
        "finite",
        "readouts",
        "export",
    }  # other data; tests of their own
