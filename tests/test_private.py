"""The private APIs of other libraries that `mutransfer.private` uses do what is relied on."""

from __future__ import annotations

import gc
import importlib.util
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel

from mutransfer import private


def test_arguments_that_cannot_be_parsed_raise_what_can_be_shown():
    app = typer.Typer()
    app.command()(lambda number: None)
    for arguments in (["--nothing"], ["a", "b"], []):
        with pytest.raises(private.usage_error()) as caught:
            app(arguments, standalone_mode=False)
        shown = io.StringIO()
        caught.value.show(shown)
        assert "Error: " in shown.getvalue()


def test_a_change_in_place_moves_the_version_on_and_nothing_else_does():
    tensor = torch.zeros(2)
    before = private.tensor_version(tensor)
    tensor + 1
    assert private.tensor_version(tensor) == before
    tensor += 1
    assert private.tensor_version(tensor) == before + 1


def test_every_softmax_is_seen():
    seen = []
    q = torch.randn(1, 2, 5, 4)
    with private.softmax_inputs(lambda logits: seen.append(logits.clone())):
        torch.softmax(q, -1)
        F.softmax(q, dim=-1)
        with sdpa_kernel(SDPBackend.MATH):
            F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert [tuple(one.shape) for one in seen] == [(1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 5)]
    assert torch.equal(seen[0], q)


def test_what_saw_a_softmax_is_freed_at_once():
    class Recorder:
        def show(self, logits):
            pass

    recorder = Recorder()
    freed = weakref.ref(recorder)
    gc.disable()
    try:
        with private.softmax_inputs(recorder.show):
            torch.softmax(torch.randn(1, 2), -1)
        del recorder
        assert freed() is None
    finally:
        gc.enable()


def test_a_data_set_has_a_fingerprint_that_follows_its_rows():
    datasets = pytest.importorskip("datasets")
    one, same, other = (datasets.Dataset.from_dict({"text": [text]}) for text in ("a", "a", "b"))
    assert private.dataset_fingerprint(one) == private.dataset_fingerprint(same)
    assert private.dataset_fingerprint(one) != private.dataset_fingerprint(other)


def test_the_hub_is_off_within_and_as_before_behind(monkeypatch):
    datasets = pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with private.hub_offline():
        assert hub.constants.is_offline_mode()
        with pytest.raises(hub.errors.OfflineModeIsEnabled):
            hub.HfApi(endpoint="http://127.0.0.1:9").whoami(token="x")
        with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
            datasets.load_dataset("nobody/nothing-of-this-name")
    assert not hub.constants.is_offline_mode()
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_model_of_transformers_knows_its_attention():
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs the extra hf")
    from mutransfer.models.huggingface_config import transformers

    config = transformers().AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=5)
    model = transformers().AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert private.attention_of(model) == "eager"
    model.set_attn_implementation("sdpa")
    assert private.attention_of(model) == "sdpa"
