"""LoRA by PEFT on a model of transformers: `python examples/peft_lora.py --lr 0.01`."""

import argparse

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
import mutransfer as mt

parser = argparse.ArgumentParser()
for name, default in {"width": 64, "base-width": 32, "lr": 0.01, "steps": 40, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
given = parser.parse_args()


def build(width: int) -> PeftModel:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 16}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, **sizes))  # or from_pretrained
    return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))


plan = mt.plan_for(build, width=given.width, base_width=given.base_width)  # of the model that PEFT has wrapped
torch.manual_seed(given.seed)
model = build(given.width)
mt.initialize(model, plan)  # changes nothing here: all values stay as they are
optimizer = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=given.lr))  # lr of A over m_in, of B as given
for step in range(1, given.steps + 1):
    tokens = (torch.randint(64, (16, 1)) + torch.randint(1, 5, (16, 1)) * torch.arange(16)) % 64
    loss = model(input_ids=tokens, labels=tokens).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item()}")  # every batch is new
