"""`mutransfer init`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mutransfer.cli.console import errors_reported, print_json, say
from mutransfer.cli.options import AsJson

# Models there is a template for.
Model = StrEnum("Model", ["bert", "gpt", "mlp", "command", "huggingface", "module", "resnet", "seq2seq"])


def run(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("proxy.yaml"),
    model: Annotated[Model, typer.Option(help="Model family.")] = Model.gpt,
    as_json: AsJson = False,
) -> None:
    """Write a commented proxy config to start from."""
    with errors_reported(as_json):
        from mutransfer.config.templates import write_template

        write_template(model.value, path)
        following = f"mutransfer sweep {path}"
        if as_json:
            print_json({"path": str(path), "next": following})
        else:
            say(f"wrote {path}; read it, then: {following}")
