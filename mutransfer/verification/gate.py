"""Gates: a quick coordinate check before a sweep, and no transfer past a check that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictBool

from mutransfer.config.schema import RunConfig
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.files import read_json, write_json

_QUICK, _FULL = "quick", "coord-check"
_UNDECIDED = {"undecided", "no power"}


def check_before_sweep(config: RunConfig, root: Path, should_stop: Callable[[], bool] = lambda: False) -> str:
    """Run the quick coordinate check of what is to be swept, and save its verdict in `root`/checks/quick.

    Returns:
        What came of it, in a few words for the sweep's records. Controls are not checked: they fail by design.

    Raises:
        NothingUsable: the check failed; the message names the culprit and the likely cause.
        Interrupted: `should_stop` said so.
    """
    if not config.trainer.inspectable:
        return f"not run: it cannot look into a {config.model.kind}; mutransfer transfer-check compares its losses"
    if config.parametrization != "mup":
        return f"not run: {config.parametrization} is a control"
    from mutransfer.verification.quick import quick_check

    check = quick_check(config, should_stop=should_stop)
    path = root / "checks" / _QUICK / "verdict.json"
    write_json(path, {**check.as_dict(), "config": config.resolved()})
    if not check.passed:
        hint = f" {check.hint}" if check.hint else ""
        raise NothingUsable(
            f"{config.name}: the quick coordinate check {check.sentence}.{hint} Nothing was swept; --no-check sweeps "
            f"all the same, `mutransfer coord-check` shows more. The verdict: {path}"
        )
    return f"quick coordinate check passed over widths {check.sizes[0]} to {check.sizes[-1]}"


def failed_checks(config: RunConfig, root: Path) -> list[str]:
    """Checks in `root`/checks whose last verdict on this config's model is a failure, each as path and sentence.

    A verdict on another model, parametrization, optimizer or set of rules says nothing about this one, and `undecided`
    or `no power` is not a failure. Each check has its own last verdict, per axis. The full coordinate check over width
    overrules an earlier quick one, and never the other way round. A verdict that cannot be read counts as failed.
    """
    last: dict[str, tuple[float, str | None]] = {}
    for path in sorted((root / "checks").rglob("verdict.json")):
        found = _read(path)
        failure = None
        if isinstance(found, str):
            failure = found
        elif found.subject != Verdict.model_validate({"passed": True, "config": config.resolved()}).subject:
            continue
        elif not found.passed and _UNDECIDED.isdisjoint((found.state, found.outcome)):
            failure = f"{path}: {found.sentence}"
        last[str(path.parent.relative_to(root / "checks"))] = (path.stat().st_mtime, failure)
    full, quick = last.get(_FULL), last.get(_QUICK)
    if full is not None and quick is not None and full[1] is None and full[0] >= quick[0]:
        del last[_QUICK]
    return [failure for _, failure in last.values() if failure is not None]


def require_no_failure(config: RunConfig, root: Path, *, force: bool) -> str | None:
    """What to record of failed checks: None where there is none.

    Raises:
        NothingUsable: a check failed and `force` is false.
    """
    failures = failed_checks(config, root)
    if not failures:
        return None
    if not force:
        raise NothingUsable(
            "the last check of this config failed, so its hparams are not expected to transfer (--force writes the "
            "target all the same):\n  " + "\n  ".join(failures)
        )
    return "forced past a failed check: " + "; ".join(failures)


class _Checked(BaseModel):
    """The parts of the checked config that a verdict depends on: the model whatever its width, the rules, …"""

    model: dict[str, Any] = {}
    parametrization: str | None = None
    rules: dict[str, Any] | None = None
    hparams: dict[str, Any] = {}
    data: dict[str, Any] = {}


class Verdict(BaseModel):
    """What a gate reads of a `verdict.json`."""

    passed: StrictBool
    config: _Checked | None
    state: str | None = None
    outcome: str | None = None
    sentence: str | None = None

    @property
    def subject(self) -> tuple[Any, ...]:
        """What was checked: a verdict on something else says nothing."""
        one = self.config or _Checked()
        model = {key: value for key, value in one.model.items() if key != "width"}
        return model, one.parametrization, one.rules, one.hparams.get("optimizer"), one.data.get("kind")


def _read(path: Path) -> Verdict | str:
    """The verdict, or why there is none."""
    try:
        return read_json(path, Verdict, advice="run the check again, or remove the file")
    except UsageError as error:
        return str(error)
