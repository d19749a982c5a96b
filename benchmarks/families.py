"""Eleven families of transformers through the whole job: audit, coordinate check, sweep, transfer to 4 × the
width, training, export, the export loaded in plain transformers.

    python benchmarks/families.py                       # every family, then the table in Markdown
    python benchmarks/families.py t5 vit --out FOLDER   # some of them, in a folder that stays

The models are small and trained for a few steps. The question is whether every step works, not how good the models are.
Every step but the last is a command that can be typed. The last one runs in a process that does not import mutransfer.
It loads the export by transformers' own `from_pretrained`, and compares logits with those of the trained target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_model, save_file

from mutransfer.config.load import load_config
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface_check import random_inputs
from mutransfer.parametrization.apply import set_multipliers

WIDTH, STEPS = 32, 20
TARGET = 4 * WIDTH
TEXT = {"kind": "text", "source": "python-stdlib", "seq_len": 32}
MASKED = {**TEXT, "mask": 0.15}
PAIRS = {"kind": "translation", "path": "pairs.jsonl", "source_field": "source", "target_field": "target",
         "seq_len": 24, "tokenizer": "bytes"}  # fmt: skip
COMMON = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({"n_embd": WIDTH, "n_layer": 2, "n_head": 4}, TEXT),
    "llama": (GROUPED, TEXT),
    "qwen3": (GROUPED, TEXT),
    "gemma3_text": ({**GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 16}, TEXT),
    "mixtral": ({**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}, TEXT),
    "deepseek_v3": ({**COMMON, **MLA, **EXPERTS, "num_key_value_heads": 4, "first_k_dense_replace": 1}, TEXT),
    "mamba2": ({"hidden_size": WIDTH, "num_hidden_layers": 2, **MAMBA2}, TEXT),
    "roberta": ({**COMMON, "pad_token_id": 1}, MASKED),
    "modernbert": ({**COMMON, "global_attn_every_n_layers": 2, "local_attention": 16}, MASKED),
    "t5": ({"d_model": WIDTH, "d_kv": 8, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": 4}, PAIRS),
    "vit": ({**COMMON, "patch_size": 2}, {"kind": "digits"}),
}
SPACE = {"lr": {"log_uniform": [1e-3, 1e-2]}, "temperature": {"log_uniform": [0.5, 2]}}
SIZES = "32,64,128,256"
COLUMNS = ("audit", "coordinate check", "sweep", "transfer", "training", "export", "plain transformers")
# Runs without mutransfer. Arguments: the exported folder, and a file with inputs and the trained target's logits.
PLAIN = """
import json, sys
try:
    import torchvision
except (ImportError, RuntimeError):  # one that does not fit torch
    sys.modules["torchvision"] = None
import torch, transformers
from safetensors.torch import load_file
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
model = getattr(transformers, config.architectures[0]).from_pretrained(sys.argv[1], attn_implementation="eager").eval()
inputs = load_file(sys.argv[2])
logits = inputs.pop("logits")
with torch.no_grad():
    own = model(**inputs).logits
assert "mutransfer" not in sys.modules
print(json.dumps({"class": type(model).__name__, "difference": float((own - logits).abs().max() / logits.std())}))
"""


class Failed(Exception):
    """A step did not work; the text is the end of what it said."""


def mutransfer(folder: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that a command of mutransfer prints."""
    return called([sys.executable, "-m", "mutransfer", *arguments, "--json"], folder)


def called(arguments: list[str], folder: Path) -> dict[str, Any]:
    """The JSON that a command prints.

    Raises:
        Failed: its exit code is not 0.
    """
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def prepared(family: str, folder: Path) -> None:
    """Write the config of a family, the config of its sweep, and the pairs that an encoder–decoder reads."""
    fields, data = FAMILIES[family]
    (folder / f"{family}.json").write_text(json.dumps({"model_type": family, **fields}), encoding="utf-8")
    if data is PAIRS:
        data = {**PAIRS, "path": str(folder / "pairs.jsonl")}
    run = {
        "name": family,
        "model": {"kind": "huggingface", "config": str(folder / f"{family}.json"), "width": WIDTH, "base_width": WIDTH},
        "data": data,
        "training": {"steps": STEPS, "batch_size": 16, "eval_batches": 4},
        "hparams": {"optimizer": "adamw", "lr": 4e-3},
        "search": {"trials": 4, "sampler": "random", "confirm": {"top": 0}, "space": SPACE},
    }
    (folder / f"{family}.yaml").write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    words = [f"{number * 7919 % 9973}" for number in range(400)]
    pairs = (json.dumps({"source": word, "target": word[::-1]}) for word in words)
    (folder / "pairs.jsonl").write_text("\n".join(pairs), encoding="utf-8")


def reloaded(target: Path, folder: Path) -> str:
    """Compare the trained target with its export in plain transformers."""
    config = load_config(target / "config.yaml")
    trained = build_model(config.model, config.data.spec)
    load_model(trained, str(target / "model.safetensors"))
    set_multipliers(trained.eval(), plan_of(config), hparams=config.hparams)
    inputs = random_inputs(config.data.spec, 3)
    names = {"classes": ["pixel_values"], "token pairs": ["input_ids", "decoder_input_ids"]}
    kept = dict(zip(names.get(config.data.spec.consumed_as, ["input_ids"]), inputs, strict=True))
    if config.data.spec.consumed_as == "token pairs":
        kept["attention_mask"] = (inputs[0] != 0).long()
    with torch.no_grad():
        save_file({**kept, "logits": trained(*inputs).contiguous()}, folder / "logits.safetensors")
    answer = called(
        [sys.executable, "-c", PLAIN, str(target / "pretrained"), str(folder / "logits.safetensors")], folder
    )
    if not answer["difference"] < 1e-4:
        raise Failed(f"logits of {answer['class']} differ by {answer['difference']:.1e} of their standard deviation")
    return f"{answer['class']}, {answer['difference']:.0e}"


def whole_job(family: str, folder: Path) -> dict[str, str]:
    """What each step came to, until one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared(family, folder)
    config, found = f"{family}.yaml", dict[str, str]()

    def audit() -> str:
        answer = mutransfer(folder, "audit", config, "--width", str(TARGET))
        scaled = bool(answer["attention_scale"])
        if scaled:  # then its temperature is worth a search
            run = yaml.safe_load((folder / config).read_text(encoding="utf-8"))
            run["search"]["space"]["attention_temperature"] = {"log_uniform": [0.5, 2]}
            (folder / config).write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
        return f"{len(answer['parameters'])} weights, attention {'scaled' if scaled else 'kept'}"

    def check() -> str:
        answer = mutransfer(folder, "coord-check", config, "--sizes", SIZES)
        failing = sum(module["outcome"] != "pass" for module in answer["control"])
        return f"{len(answer['modules'])} modules pass, sp fails in {failing}"

    def sweep() -> str:
        answer = mutransfer(folder, "sweep", config, "--workers", "1", "--pack", "1")
        return f"4 trials, best {answer['best']['validation_loss']:.3f}"

    def transfer() -> str:
        mutransfer(folder, "transfer", "--run", family, "--width", str(TARGET))
        return f"width {TARGET}"

    def target() -> Path:
        return next((folder / "runs" / family / "targets").iterdir())

    def train() -> str:
        return f"{mutransfer(folder, 'train', str(target() / 'config.yaml'))['validation_loss']:.3f}"

    def export() -> str:
        why = target() / "pretrained-not-written.txt"
        if why.exists():
            raise Failed(why.read_text(encoding="utf-8"))
        return "written"

    steps: dict[str, Callable[[], str]] = {
        "audit": audit, "coordinate check": check, "sweep": sweep, "transfer": transfer, "training": train,
        "export": export, "plain transformers": lambda: reloaded(target(), folder),
    }  # fmt: skip
    for name, step in steps.items():
        began = time.monotonic()
        try:
            found[name] = step()
        except Failed as error:
            print(f"{family}: {name}: {error}", flush=True)
            found[name] = "FAILED"
            if name not in ("coordinate check",):
                break
        print(f"{family:12} {name:18} {time.monotonic() - began:5.0f} s  {found[name]}", flush=True)
    return found


def main() -> None:
    """Do it for every family, and print the table; exit code 3 where a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], metavar="FAMILY", help="all when left out")
    parser.add_argument("--out", type=Path, help="where runs are kept; a temporary folder when left out")
    parser.add_argument("--jobs", type=int, default=2, help="families at a time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = (given.out or Path(name)).resolve()
        with ThreadPoolExecutor(given.jobs) as pool:  # of commands, which are processes
            rows = dict(pool.map(lambda family: (family, whole_job(family, root / family)), given.families or FAMILIES))
    print(f"\n| family | {' | '.join(COLUMNS)} |\n| {' | '.join(['---'] * (1 + len(COLUMNS)))} |")
    for family, row in rows.items():
        print(f"| {family} | {' | '.join(row.get(column, '–') for column in COLUMNS)} |")
    if any(row.get(column, "FAILED") == "FAILED" for row in rows.values() for column in COLUMNS):
        sys.exit(3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
