"""A µP Llama for torchtitan: its TrainSpec with two hooks. torchtitan finds it by `--experimental.custom_import`."""

import os
from dataclasses import replace

from torchtitan.components.optimizer import build_optimizers
from torchtitan.models.llama3 import Transformer, TransformerModelArgs, get_train_spec
from torchtitan.protocols.train_spec import register_train_spec
import mutransfer as mt

WIDTH, BASE_WIDTH, SEED = (int(os.environ[f"MUTRANSFER_{name}"]) for name in ("WIDTH", "BASE_WIDTH", "SEED"))


def arguments(width: int) -> TransformerModelArgs:
    return TransformerModelArgs(dim=width, n_layers=2, n_heads=width // 16, vocab_size=256, multiple_of=16)


class MupTransformer(Transformer):
    def init_weights(self, buffer_device=None) -> None:  # torchtitan calls it after to_empty
        super().init_weights(buffer_device)
        mt.initialize(self, plan, seed=SEED)


def build_mup_optimizers(model_parts, config, *rest):
    container = build_optimizers(model_parts, config, *rest)
    for model, optimizer in zip(model_parts, container, strict=True):
        optimizer.param_groups.clear()
        for group in mt.parameter_groups(model, plan, lr=config.lr, weight_decay=config.weight_decay, eps=config.eps):
            optimizer.add_param_group({key: group[key] for key in ("params", "lr", "weight_decay", "eps")})
    return container


plan = mt.plan_for(lambda width: MupTransformer(arguments(width)), width=WIDTH, base_width=BASE_WIDTH)
spec = replace(get_train_spec(), model_cls=MupTransformer, model_args={"own": arguments(WIDTH)},
               build_optimizers_fn=build_mup_optimizers)  # fmt: skip
register_train_spec("llama3_mup", spec)
