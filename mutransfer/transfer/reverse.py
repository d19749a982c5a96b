"""Reverse µTransfer: the instabilities of a wide standard model, seen in a narrow one (TP-V, Appendix I)."""

from __future__ import annotations

from pathlib import Path

from mutransfer.config.load import differences, load_config, save_config, validate
from mutransfer.config.schema import RunConfig
from mutransfer.config.source import ConfigSource
from mutransfer.errors import UsageError


def reverse_config(config: RunConfig, width: int, *, origin: str = "config") -> RunConfig:
    """A model of `config`'s own width that behaves like an `sp` model of `width` with the same hparams.

    At its base width µP is `sp`. So with `width` as the base, µTransfer carries the wide model's hparams down to the
    narrow one: where the wide one's training blows up, so does the narrow one's, at a fraction of the cost.

    Args:
        origin: where the config comes from, for messages.

    Raises:
        UsageError: `width` is not wider than the config's model, or that is a reverse one already.
        ConfigError: `width` does not fit the model's other fields.
    """
    if config.reverse:
        raise UsageError(f"{origin}: is a reverse config already; reverse the one it was made from")
    if width <= config.model.width:
        raise UsageError(
            f"--width {width}: must be wider than the model of {origin}, whose width is {config.model.width}"
        )
    data = config.resolved()
    for dropped in ("search", "provenance", "rules"):
        data.pop(dropped, None)
    data["name"] = f"{config.name}-reverse-w{width}"
    data["parametrization"], data["reverse"] = "mup", True
    data["model"]["base_width"] = width
    source = ConfigSource(origin, data)
    source.overridden[("model", "base_width")] = f"--width {width}"
    source.overridden[("model",)] = f"--width {width}"
    return validate(source)


def write_reverse(config: RunConfig, path: Path) -> None:
    """Save the config; one that stands there already is kept when it is the same.

    Raises:
        UsageError: something else stands there, or it cannot be written.
    """
    if path.exists():
        changed = differences(load_config(path), config)
        if changed:
            raise UsageError(
                f"{path}: is there already and differs; choose another file with --out\n  " + "\n  ".join(changed)
            )
        return
    heading = (
        "Written by mutransfer reverse; run it with mutransfer train.\n"
        f"Width {config.model.width}, base width {config.model.base_width}: shows what training an sp model of width "
        f"{config.model.base_width} does with these hparams."
    )
    save_config(config, path, heading=heading)
