"""The recorder: names, sizes, attention logits of every spelling, and what a layer's own weights did."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.verification.activations import Activation, mean_abs, record, rms


class Attention(nn.Module):
    """Single-head causal attention of (B, S, D), with torch's function or by hand."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x)[:, None] for layer in (self.query, self.key, self.value))
        if self.spelling == "torch":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
        else:
            mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
            logits = q @ k.transpose(-1, -2) * 0.5
            lowest = {"inf": -math.inf, "min": torch.finfo(torch.float32).min}[self.spelling]
            mixed = logits.masked_fill(~mask, lowest).softmax(-1) @ v
        return mixed[:, 0]


def seen(model: nn.Module, x: Tensor, **options: object) -> dict[str, Activation]:
    return record(model, lambda: model(x), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("spelling", ["torch", "inf", "min"])
def test_attention_logits_are_what_the_softmax_gets_without_what_is_masked(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Attention(spelling), torch.randn(2, 5, 8)
    found = seen(model, x)
    expected = (model.query(x) @ model.key(x).transpose(-1, -2) * 0.5).detach()
    kept = torch.ones(5, 5).tril().bool().expand(2, 5, 5)
    assert list(found) == ["query", "key", "value", "attention_logits", "(output)"]
    logits = found["attention_logits"].values[:, 0]
    torch.testing.assert_close(logits[kept], expected[kept])
    assert logits[~kept].isnan().all()
    assert rms(logits) == pytest.approx(float(expected[kept].square().mean().sqrt()), rel=1e-5)
    assert mean_abs(logits) == pytest.approx(float(expected[kept].abs().mean()), rel=1e-5)


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_logits_of_torchs_own_layers_are_seen(need_weights: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    found = record(layer, lambda: layer(x, x, x, need_weights=need_weights))
    q, k = (x @ weight.T for weight in layer.in_proj_weight.chunk(3)[:2])
    heads = [one.view(2, 5, 2, 4).transpose(1, 2) for one in (q, k)]
    expected = heads[0] @ heads[1].transpose(-1, -2) / 2
    assert rms(found["attention_logits"].values) == pytest.approx(rms(expected.detach()), rel=1e-5)


def test_torchs_fused_encoder_layer_is_seen_inside() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert {"self_attn", "self_attn.attention_logits", "linear1", "linear2"} <= set(seen(layer, torch.randn(2, 5, 8)))
    assert torch.backends.mha.get_fastpath_enabled()


def test_containers_that_hand_on_are_left_out_and_what_changes_in_place_is_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    found = seen(model, torch.randn(64, 4))
    assert list(found) == ["0", "1", "2"]
    assert (found["0"].values < 0).any()
    assert (found["1"].values >= 0).all()


def test_a_module_called_twice_has_two_names() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert list(seen(model, torch.randn(2, 4))) == ["0", "1", "0#2"]


def test_what_depends_on_a_trainable_parameter_is_known() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    found = seen(model, torch.randn(2, 4), with_gradient=True)
    assert {name: one.trainable for name, one in found.items()} == {"0": False, "1": False, "2": True}


def test_the_update_is_the_difference_that_a_layers_own_weights_make_once_through_its_hooks() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3, bias=False)), torch.randn(5, 4)
    # As a readout multiplier does: the input is scaled before the layer, whose weights see it once.
    model[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,))
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    found = seen(model, x, initial=before)
    expected = 0.5 * model[0](x) @ (model[1].weight - before["1.weight"]).T
    assert found["1"].update is not None
    torch.testing.assert_close(found["1"].update, expected.detach())
    assert list(found) == ["0", "1"]


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    model.train()
    seen(model, torch.randn(2, 4))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_constants_and_empty_outputs_are_left_out() -> None:
    class Bias(nn.Module):
        def forward(self, length: int) -> Tensor:
            return torch.arange(float(length))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.layer, self.idle = Bias(), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x[:0])
            result: Tensor = self.layer(x) + self.bias(4)
            return result

    found = record(net := Net(), lambda: net(torch.ones(2, 4)))
    assert list(found) == ["layer", "(output)"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_parts_are_seen_too():
    model, x = nn.Sequential(torch.compile(nn.Linear(8, 8), backend="eager"), nn.Linear(8, 8)), torch.randn(2, 8)
    expected = model(x)  # compiled code does not call hooks that come later
    found = seen(model, x)
    assert list(found) == ["0._orig_mod", "1"]
    assert torch.equal(found["1"].values, expected)
