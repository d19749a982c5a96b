"""Hugging Face's Trainer with the coordinate check in its log: `python examples/huggingface_trainer.py --lr 0.01`."""

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
import mutransfer as mt
from mutransfer.integrations import CoordinateProbe, HuggingFaceCoordinates

parser = argparse.ArgumentParser()
for name, default in {"width": 64, "base-width": 32, "lr": 0.01, "steps": 40, "seed": 0, "out": "output"}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
given = parser.parse_args()
tokens = (torch.randint(64, (704, 1)) + torch.randint(1, 5, (704, 1)) * torch.arange(16)) % 64
data = [{"input_ids": row, "labels": row} for row in tokens]


def build(width: int) -> LlamaForCausalLM:  # heads keep their size, so their scale is right at every width
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, **sizes))


plan = mt.plan_for(build, width=given.width, base_width=given.base_width)
model = build(given.width)
mt.initialize(model, plan, seed=given.seed)
optimizer = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=given.lr))  # Trainer's learning_rate is not used
arguments = TrainingArguments(given.out, max_steps=given.steps, per_device_train_batch_size=16, seed=given.seed,
                              lr_scheduler_type="cosine", save_strategy="no", report_to=[])  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=data[64:], eval_dataset=data[:64], optimizers=(optimizer, None))
probe = CoordinateProbe({"input_ids": tokens[:4]}, modules=["*.down_proj", "lm_head"], every=20)
trainer.add_callback(HuggingFaceCoordinates(trainer, probe))
trainer.train()
print(f"step {given.steps}: loss {trainer.evaluate()['eval_loss']}")
