"""`mutransfer prepare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import AsJson, Sets

if TYPE_CHECKING:
    from mutransfer.config.data import TokenizerSection
    from mutransfer.data.source import DataSource


def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Run config whose data section is prepared; or give --input."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the shards, new or begun by the same command. Required.")
    ] = None,
    sets: Sets = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="FILE", help="File or glob: parquet, JSON lines, or text. Repeatable."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of text in parquet and JSON lines; `text` when left out.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="bytes, words, bpe, or a tokenizer.json, for --input; bytes when left out."),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Token ids of words and bpe, for --input.", min=1)] = None,
    eos: Annotated[
        str | None, typer.Option(help="Token of a tokenizer.json that ends each document, for --input.")
    ] = None,
    sample: Annotated[
        int, typer.Option(help="MiB of text on which words and bpe are trained, spread over the files.", min=1)
    ] = 256,
    shard_tokens: Annotated[int, typer.Option(help="Tokens in a shard.", min=1)] = 1 << 27,
    workers: Annotated[int, typer.Option(help="Processes that encode.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Turn a corpus of any size into memory-mapped shards of token ids; the same command goes on after a stop."""
    with ui.errors_reported(as_json):
        from mutransfer.cli.progress import PrepareProgress
        from mutransfer.data.prepare import prepare
        from mutransfer.errors import Interrupted, UsageError
        from mutransfer.signals import stop_on_signals

        if out is None:
            raise UsageError("--out: is required: the folder for the shards")
        source, section = _source(
            config, sets, inputs, {"column": column, "tokenizer": tokenizer, "vocab-size": vocab_size, "eos": eos}
        )
        try:
            with stop_on_signals() as stopping, PrepareProgress() as progress:
                index = prepare(
                    source,
                    section,
                    out,
                    shard_tokens=shard_tokens,
                    sample=sample << 20,
                    workers=workers,
                    should_stop=stopping,
                    on_progress=progress,
                )
        except Interrupted as stopped:
            options: dict[str, Any] = {
                "out": out, "column": column, "tokenizer": tokenizer, "vocab-size": vocab_size, "eos": eos,
                "sample": sample if sample != 256 else None,
                "shard-tokens": shard_tokens if shard_tokens != 1 << 27 else None,
                "workers": workers if workers != 1 else None,
            }  # fmt: skip
            again = ["mutransfer", "prepare", *([str(config)] if config else [])]
            again += [part for one in sets or () for part in ("--set", one)]
            again += [part for one in inputs or () for part in ("--input", one)]
            again += [
                part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))
            ]
            raise Interrupted(f"{stopped}; continue: {shlex.join(again)}") from None
        following = f"data: {{kind: tokens, path: {out}, vocab_size: {index['vocab_size']}, seq_len: 64}}"
        if as_json:
            ui.print_json({"out": str(out), **index, "next": following})
            return
        size = sum((out / shard["file"]).stat().st_size for shard in index["shards"])
        ui.say(
            f"{index['tokens']:,} tokens below {index['vocab_size']} in {len(index['shards'])} shards of "
            f"{index['dtype']} ({ui.quantity(size, 'B')}) in {out}"
        )
        ui.say(f"Use them with  {following}")


def _source(
    config: Path | None, sets: list[str] | None, inputs: list[str] | None, options: dict[str, Any]
) -> tuple[DataSource, TokenizerSection]:
    """The corpus and the tokenizer that the arguments name."""
    from mutransfer.data.source import source_of, source_of_files, tokenizer_of
    from mutransfer.errors import UsageError

    if (config is None) == (not inputs):
        raise UsageError("give either a CONFIG, whose data section is prepared, or --input files")
    if config is None:
        section = tokenizer_of(options["tokenizer"], options["vocab-size"], options["eos"])
        if sets:
            raise UsageError("--set: belongs to a CONFIG, not to --input")
        column = options["column"] or "text"
        return source_of_files(inputs or (), column=column, raw=section.kind == "bytes"), section
    from mutransfer.config.load import load_config

    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name}: belongs to --input; in a CONFIG it stands in the data section (--set data.…)")
    data = load_config(config, sets or ()).data
    source = source_of(data)
    return source, data.tokenizer  # type: ignore[attr-defined]  # source_of refused sections without text
