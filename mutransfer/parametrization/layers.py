"""Which dimension of a weight is fan-in and which fan-out, by the class of the layer that owns it."""

from __future__ import annotations

from torch import nn

# (fan_out dimension, fan_in dimension) of a weight; further dimensions are a kernel and count as fan-in.
_OUT_IN = (0, 1)
_IN_OUT = (1, 0)
_LAYOUTS: list[tuple[type[nn.Module], tuple[int, int]]] = [
    (nn.Embedding, _IN_OUT),
    (nn.EmbeddingBag, _IN_OUT),
    (nn.ConvTranspose1d, _IN_OUT),
    (nn.ConvTranspose2d, _IN_OUT),
    (nn.ConvTranspose3d, _IN_OUT),
    (nn.Linear, _OUT_IN),
    (nn.Conv1d, _OUT_IN),
    (nn.Conv2d, _OUT_IN),
    (nn.Conv3d, _OUT_IN),
    (nn.MultiheadAttention, _OUT_IN),
    (nn.RNNBase, _OUT_IN),
]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_WITHOUT_HOOKS = (nn.MultiheadAttention, nn.modules.linear.NonDynamicallyQuantizableLinear, nn.RNNBase)
# Layers of packages that need not be installed, by the full name of their class. transformers' Conv1D (GPT-2) is a
# linear layer whose weight is transposed.
_FOREIGN_LAYOUTS = {"transformers.pytorch_utils.Conv1D": _IN_OUT}


def is_layer(module: nn.Module) -> bool:
    """Whether `module` multiplies its input by its weight (or looks it up), in a layout that is known here."""
    return layout_of(module) is not None


def takes_multipliers(module: nn.Module) -> bool:
    """Whether what a layer takes and gives can be multiplied by hooks. nn.MultiheadAttention computes with its weights
    by itself, where no hook of a layer is called, and recurrent layers have weights inside their loop."""
    return is_layer(module) and not isinstance(module, _WITHOUT_HOOKS)


def is_layer_bias(name: str, module: nn.Module) -> bool:
    """Whether a parameter of that name (`bias`, `in_proj_bias`, `bias_ih_l0`) is the bias of a layer."""
    own = name.rpartition(".")[2]
    return is_layer(module) and (own.endswith("bias") or own.startswith("bias_"))


def layout_of(module: nn.Module) -> tuple[int, int] | None:
    """(fan_out dimension, fan_in dimension) of the weight of a layer; None of any other module."""
    found = next((layout for cls, layout in _LAYOUTS if isinstance(module, cls)), None)
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__)
    return found or next((_FOREIGN_LAYOUTS[name] for name in names if name in _FOREIGN_LAYOUTS), None)
