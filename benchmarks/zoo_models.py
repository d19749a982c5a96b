"""Models of other people for `zoo.py`: each is a factory from a width, the data that it takes, and what its user has to
declare. All are right in µP as planned: what changes with width is what the plan says, and heads keep their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import timm.models as tm
import torch
import torch.nn.functional as F
import torchvision.models as tv
import vit_pytorch as vp
import x_transformers as xt
from loguru import logger
from torch import Tensor, nn
from vit_pytorch import parallel_vit, simple_vit, vit_for_small_dataset

Kind = Literal["images", "tokens", "vectors", "signals", "graphs", "same"]
CLASSES, VOCABULARY, SIZE, LENGTH = 10, 27, 16, 12


@dataclass(frozen=True)
class Animal:
    """One model of the zoo."""

    build: Callable[[int], nn.Module]
    kind: Kind
    base: int = 32
    """Base width; checked at 1, 2, 4 and 8 times that, or up to `most`."""
    most: int = 256
    lr: float = 2e-3
    optimizer: str = "adamw"
    roles: dict[str, Any] = field(default_factory=dict)
    """What the model's user has to say of parameters that no layer owns."""
    finite: tuple[str, ...] = ()
    """Modules that do not grow on purpose."""
    restores: bool = False
    """Its target is its input without noise."""


logger.disable("x_transformers")  # it advises against heads below 32, for speed
_POSITIONS: dict[str, Any] = {"*pos_embed*": "input"}
_BIASES: dict[str, Any] = {"*relative_position_bias_table": "vector"}


class _Only(nn.Module):
    """A model that is called otherwise than with one tensor, or returns more than its logits."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Any) -> Tensor:
        return self.call(self.model, *inputs)


def _grown(sizes: dict[str, Any], width: int) -> dict[str, Any]:
    return {key: of(width) if callable(of) else of for key, of in sizes.items()}


def _timm(name: str, roles: dict[str, Any] | None = None, **sizes: Any) -> Animal:
    """A class of timm; sizes are numbers, or functions of the width."""

    def build(width: int) -> nn.Module:
        made: nn.Module = getattr(tm, name)(num_classes=CLASSES, **_grown(sizes, width))
        return made

    return Animal(build, "images", roles=roles or {})


def _timm_vit(name: str, roles: dict[str, Any] | None = None, **sizes: Any) -> Animal:
    """A vision Transformer of timm, one block, heads of size 16."""
    common = {"img_size": SIZE, "patch_size": 4, "embed_dim": _own, "depth": 1, "num_heads": _heads}
    return _timm(name, _POSITIONS if roles is None else roles, **common, **sizes)


def _vit(made: Callable[..., nn.Module], roles: dict[str, Any] = _POSITIONS) -> Animal:
    """A vision Transformer of vit-pytorch, one block, heads of size 16."""

    def build(width: int) -> nn.Module:
        return made(
            image_size=SIZE, patch_size=4, num_classes=CLASSES, dim=width, depth=1, heads=width // 16, dim_head=16,
            mlp_dim=2 * width,
        )  # fmt: skip

    return Animal(build, "images", roles=roles)


def _own(width: int) -> int:
    return width


def _heads(width: int) -> int:
    return width // 16


def _two(width: int) -> tuple[int, int]:
    return width, 2 * width


def _two_heads(width: int) -> tuple[int, int]:
    return width // 16, width // 8


def _decoder(**options: Any) -> Animal:
    """A causal Transformer of x-transformers, heads of size 16; without absolute positions, which the package
    multiplies by width^-1/2."""

    def build(width: int) -> nn.Module:
        layers = xt.Decoder(dim=width, depth=2, heads=width // 16, attn_dim_head=16, **options)
        return xt.TransformerWrapper(
            num_tokens=VOCABULARY, max_seq_len=LENGTH, use_abs_pos_emb=False, attn_layers=layers
        )

    return Animal(build, "tokens")


class Recurrent(nn.Module):
    """Tokens → logits, through one or two recurrent layers."""

    def __init__(self, width: int, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(VOCABULARY, width), layer(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.layers(self.embedding(tokens))[0])
        return hidden


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder over tokens, causal."""

    def __init__(self, width: int, *, norm_first: bool) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 16, 4 * width, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embedding(tokens) + self.position.weight[:length]
        logits: Tensor = self.head(self.norm(self.encoder(x, mask=mask)))
        return logits


class TorchTranslator(nn.Module):
    """nn.Transformer: (source, target) tokens → logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.transformer = nn.Transformer(width, width // 16, 1, 1, 4 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, source: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(source.shape[1])
        embedded = self.embedding(source)
        logits: Tensor = self.head(self.transformer(embedded, embedded, tgt_mask=mask))
        return logits


class FusedAttention(nn.Module):
    """Causal attention with queries, keys and values in one matrix; 2 heads that widen, logits / head_dim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head_dim = width // 2
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.register_buffer("attention_scale", torch.tensor(1.0 / 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, self.head_dim).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * self.attention_scale
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return mixed


class Fused(nn.Module):
    """A small GPT with `FusedAttention`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = FusedAttention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        x = x + self.attention(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        logits: Tensor = self.head(self.norms[2](x))
        return logits


class Mixture(nn.Module):
    """Tokens → logits through a layer of 4 experts, the best one per token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.router = nn.Embedding(VOCABULARY, width), nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(4)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        weights = self.router(x).softmax(-1)
        best = weights.argmax(-1, keepdim=True)
        chosen = torch.zeros_like(weights).scatter(-1, best, 1.0) * weights
        mixed = sum(chosen[..., [at]] * expert(x) for at, expert in enumerate(self.experts))
        logits: Tensor = self.head(self.norm(x + mixed))
        return logits


class Convolutions(nn.Module):
    """Signals (B, 1, L) → classes: dilated Conv1d blocks with residuals."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**at, dilation=2**at) for at in range(3))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, signal: Tensor) -> Tensor:
        x = self.stem(signal)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        logits: Tensor = self.head(x.mean(-1))
        return logits


class UNet(nn.Module):
    """Images → images of the same size, two levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle, self.up = nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, width, 3, padding=1)
        self.last, self.head = nn.Conv2d(2 * width, width, 3, padding=1), nn.Conv2d(width, 3, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, size) for size in (width, 2 * width, 2 * width, width, width))

    def forward(self, image: Tensor) -> Tensor:
        one = F.silu(self.norms[0](self.first(image)))
        two = F.silu(self.norms[1](self.down(one)))
        two = two + F.silu(self.norms[2](self.middle(two)))
        back = F.silu(self.norms[3](self.up(F.interpolate(two, scale_factor=2))))
        merged = F.silu(self.norms[4](self.last(torch.cat((one, back), 1))))
        restored: Tensor = self.head(merged)
        return restored


class GraphConvolutions(nn.Module):
    """Node features (B, N, 8) on one fixed ring → classes of the graph."""

    def __init__(self, width: int) -> None:
        super().__init__()
        nodes = torch.eye(LENGTH)
        self.register_buffer("mixing", (nodes + nodes.roll(1, 0) + nodes.roll(-1, 0)) / 3)
        self.layers = nn.ModuleList((nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, width)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        for layer in self.layers:
            nodes = torch.relu(layer(self.mixing @ nodes))
        logits: Tensor = self.head(nodes.mean(1))
        return logits


def autoencoder(width: int) -> nn.Module:
    """64 numbers → 8 → 64."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8), nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 64)
    )


def batch_norms(width: int) -> nn.Module:
    """An MLP with batch norm and dropout."""
    return nn.Sequential(
        nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width),
        nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, CLASSES),
    )  # fmt: skip


def plain_mlp(width: int) -> nn.Module:
    """Three layers."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))


def torchvision_vit(width: int) -> nn.Module:
    """torchvision's VisionTransformer, whose attention is nn.MultiheadAttention."""
    return tv.VisionTransformer(SIZE, 4, 2, width // 16, width, 4 * width, num_classes=CLASSES)


def torchvision_convnext(width: int) -> nn.Module:
    """torchvision's ConvNeXt, two stages."""
    from torchvision.models.convnext import CNBlockConfig

    return tv.ConvNeXt([CNBlockConfig(width, 2 * width, 1), CNBlockConfig(2 * width, None, 1)], num_classes=CLASSES)


def torchvision_vgg(width: int) -> nn.Module:
    """torchvision's VGG with batch norm, three stages, on its own small classifier."""
    from torchvision.models.vgg import make_layers

    features = make_layers([width, "M", 2 * width, "M", 2 * width, "M"], batch_norm=True)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, CLASSES))


def x_translator(width: int) -> nn.Module:
    """x-transformers' encoder and decoder, the source as the target."""
    sizes = {
        "num_tokens": VOCABULARY,
        "depth": 1,
        "heads": width // 16,
        "max_seq_len": LENGTH,
        "attn_dim_head": 16,
        "use_abs_pos_emb": False,
        "rotary_pos_emb": True,
    }
    model = xt.XTransformer(
        dim=width, **{f"{side}_{key}": size for side in ("enc", "dec") for key, size in sizes.items()}
    )

    def call(model: nn.Module, tokens: Tensor) -> Tensor:
        logits: Tensor = model.decoder.net(tokens, context=model.encoder(tokens, return_embeddings=True))
        return logits

    return _Only(model, call)


def torchvision_swin(width: int) -> nn.Module:
    """torchvision's Swin Transformer, two stages."""
    return tv.SwinTransformer(
        [2, 2], width, [1, 1], list(_two_heads(width)), [4, 4], stochastic_depth_prob=0.0, num_classes=CLASSES
    )


def _narrow(animal: Animal) -> Animal:
    return replace(animal, base=16, most=128)


ZOO: dict[str, Animal] = {
    "timm vit": _timm_vit("VisionTransformer"),
    "timm vit, qk-norm, layer scale": _timm_vit("VisionTransformer", qk_norm=True, init_values=0.1),
    "timm vit, average pool": _timm_vit("VisionTransformer", global_pool="avg", class_token=False),
    "timm eva": _timm_vit("Eva", use_rot_pos_emb=True),
    "timm beit": _timm_vit("Beit", _POSITIONS | _BIASES, use_rel_pos_bias=True),
    "timm cait": _timm_vit("Cait"),
    "timm xcit": _timm("Xcit", img_size=SIZE, patch_size=8, embed_dim=_own, depth=1, num_heads=_heads),
    "timm mixer": _timm(
        "MlpMixer", {"*mlp_tokens.fc2.weight": "output"}, img_size=SIZE, patch_size=4, embed_dim=_own, num_blocks=1
    ),
    "timm convmixer": _timm("ConvMixer", dim=_own, depth=1, kernel_size=3, patch_size=4),
    "timm swin": _timm(
        "SwinTransformer",
        _BIASES,
        img_size=SIZE,
        patch_size=2,
        window_size=4,
        embed_dim=_own,
        depths=(1, 1),
        num_heads=_two_heads,
    ),
    "timm metaformer": _timm("MetaFormer", depths=(1, 1), dims=_two),
    "timm davit": _timm("DaVit", depths=(1, 1), embed_dims=_two, num_heads=_two_heads, window_size=4),
    "torchvision vit": Animal(torchvision_vit, "images", roles=_POSITIONS),
    "torchvision convnext": Animal(torchvision_convnext, "images"),
    "torchvision vgg": _narrow(Animal(torchvision_vgg, "images")),
    "torchvision swin": Animal(torchvision_swin, "images", roles=_BIASES),
    "x-transformers decoder": _decoder(rotary_pos_emb=True),
    "x-transformers rotary, swiglu, rmsnorm": _decoder(
        rotary_pos_emb=True, ff_glu=True, ff_swish=True, use_rmsnorm=True
    ),
    "x-transformers alibi": _decoder(alibi_pos_bias=True),
    "x-transformers relative": _decoder(rel_pos_bias=True),
    "x-transformers sandwich norm": _decoder(rotary_pos_emb=True, sandwich_norm=True),
    "x-transformers post-norm": _decoder(rotary_pos_emb=True, pre_norm=False),
    "x-transformers translator": Animal(x_translator, "tokens"),
    "vit-pytorch vit": _vit(vp.ViT),
    "vit-pytorch simple vit": _vit(simple_vit.SimpleViT, {}),
    "vit-pytorch parallel vit": _vit(parallel_vit.ViT),
    "vit-pytorch small dataset": _vit(vit_for_small_dataset.ViT),
    "torch encoder, pre-norm": Animal(partial(TorchEncoder, norm_first=True), "tokens"),
    "torch encoder, post-norm": Animal(partial(TorchEncoder, norm_first=False), "tokens"),
    "torch translator": Animal(TorchTranslator, "tokens"),
    "torch lstm": Animal(partial(Recurrent, layer=nn.LSTM), "tokens"),
    "torch gru": Animal(partial(Recurrent, layer=nn.GRU), "tokens"),
    "torch fused qkv, heads widen": Animal(Fused, "tokens"),
    "torch mixture of experts": Animal(Mixture, "tokens", roles={"router.weight": "output"}, finite=("router",)),
    "torch conv1d": Animal(Convolutions, "signals"),
    "torch u-net": _narrow(Animal(UNet, "same")),
    "torch graph convolutions": Animal(GraphConvolutions, "graphs"),
    "torch autoencoder": Animal(
        autoencoder, "vectors", lr=1e-3, restores=True, roles={"2.weight": "output"}, finite=("2",)
    ),
    "torch mlp, batch norm": Animal(batch_norms, "vectors"),
    "torch mlp, sgd": Animal(plain_mlp, "vectors", optimizer="sgd", lr=0.1),
}
