"""The coordinate check: does every module keep its size and its change as the model grows?"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn, optim

from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.optimizers import OPTIMIZERS
from mutransfer.parametrization.building import ModelFactory
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.rules import gradient_sized
from mutransfer.verification import coord_words
from mutransfer.verification.coordinates import Measurements, OnProgress, measure
from mutransfer.verification.hints import hint_for
from mutransfer.verification.reason import Hint, as_values, plain
from mutransfer.verification.subject import FACTORS, ConfigSubject, ModuleBatch, ModuleSubject, Subject
from mutransfer.verification.verdict import ModuleVerdict, first_failure, judge

THRESHOLD = 0.1
STEPS = 8
LEAST_STEPS = 6
"""Behind a readout and queries that start at zero, keys begin to move in the third step; the last half is judged."""
SEEDS = 3
_SETTINGS = ("parametrization", "axis", "sizes", "steps", "seeds", "threshold", "lr")
CheckOutcome = Literal["passed", "failed", "no power"]


@dataclass(frozen=True)
class CoordinateCheck:
    """The result: a verdict per module and one on the whole, with everything measured."""

    parametrization: str
    axis: str
    sizes: tuple[int, ...]
    steps: int
    seeds: int
    threshold: float
    lr: float
    """Constant lr at base width."""
    modules: tuple[ModuleVerdict, ...]
    control: tuple[ModuleVerdict, ...] | None
    """Verdicts on `sp`, which has to fail; None where it was not run."""
    culprit: str | None
    """The first module that fails."""
    cause: Hint | None
    """Which broken rule would look like that."""
    warnings: tuple[str, ...]
    measured: tuple[Measurements, ...]
    """What was checked, and the control."""

    @property
    def outcome(self) -> CheckOutcome:
        """`passed`, `failed`, or `no power`: nothing failed, but neither did the control."""
        if any(one.outcome != "pass" for one in self.modules):
            return "failed"
        if self.control is not None and all(one.outcome == "pass" for one in self.control):
            return "no power"
        return "passed"

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and the control did."""
        return self.outcome == "passed"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return coord_words.sentence(self.outcome, self.axis, self.sizes, self.modules, self.control, self.culprit)

    @property
    def hint(self) -> str | None:
        """The likely cause in words."""
        return None if self.cause is None else coord_words.hint(self.cause)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the single measurements."""
        return {
            "passed": self.passed,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "culprit": self.culprit,
            "hint": self.hint,
            "cause": None if self.cause is None else as_values(self.cause),
            **plain({name: getattr(self, name) for name in _SETTINGS}),
            "modules": [_as_dict(one) for one in self.modules],
            "control": None if self.control is None else [_as_dict(one) for one in self.control],
            "warnings": list(self.warnings),
        }


def coordinate_check(
    factory: ModelFactory,
    *,
    inputs: Any = None,
    targets: Any = None,
    batches: Sequence[ModuleBatch] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    base_width: int,
    widths: Sequence[int] | None = None,
    axis: str = "width",
    lr: float = 1e-2,
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    parametrization: str = "mup",
    plan_options: Mapping[str, Any] | None = None,
    prepare: Callable[[nn.Module, int], object] | None = None,
    make_optimizer: Callable[[nn.Module, int], optim.Optimizer] | None = None,
    seeds: int = SEEDS,
    steps: int = STEPS,
    threshold: float = THRESHOLD,
    control: bool = True,
    finite: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total, news: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CoordinateCheck:
    """Check a module of your own.

    Args:
        factory: called with a size, returns the module. Torch's seed is set before.
        inputs: one batch: a tensor, a tuple of arguments or a dict of keywords; also the probe on which sizes are
            measured.
        targets: what `loss` gets besides the module's output.
        batches: `[(inputs, targets), …]` instead, taken in turn; the first one's inputs are the probe.
        loss: `loss(output, targets)`; cross entropy over the last dimension when left out.
        base_width: width at which µP is the standard parametrization, and the smallest width by default.
        widths: sizes to build; base width × 1, 2, 4, 8, 16 when left out.
        axis: what a size is, `width` or `depth`. Over depth the first and last of each list of blocks are compared.
        lr, optimizer, weight_decay: at base width; the name of a registered optimizer.
        parametrization: `mup` or `sp`.
        plan_options: further arguments of `plan_for`: roles, init_std, zero_readout, finite_sizes.
        prepare: your own µP: `prepare(model, size)` draws the initial weights. Goes with `make_optimizer`.
        make_optimizer: `make_optimizer(model, size)` gives the optimizer. With these two there is no `sp` control,
            and `lr`, `weight_decay`, `parametrization` have no effect; `optimizer` says of which family yours is.
        seeds: seeds to begin with; where intervals leave a module unclear, as many again are added, once.
        steps: training steps, at least 6.
        threshold: largest |slope| of log size against log width that counts as flat.
        control: also run `sp`, which must fail.
        finite: modules whose outputs do not grow on purpose.
        on_progress: called with (models done, models in all, what was done last).
        should_stop: asked before every step.

    Raises:
        PlanError: the model cannot be planned.
        UsageError: there is no such optimizer; arguments that contradict each other.
        Interrupted: `should_stop` said so.
    """
    subject = ModuleSubject(
        factory,
        batches=batches if batches is not None else [(inputs, targets)] if inputs is not None else [],
        loss=loss,
        sizes=widths or [base_width * factor for factor in FACTORS],
        axis=axis,
        base_width=base_width,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        parametrization=parametrization,
        plan_options=plan_options or {},
        prepare=prepare,
        make_optimizer=make_optimizer,
    )
    return run_check(
        subject,
        lr=lr,
        adam=not gradient_sized(OPTIMIZERS.load(optimizer).family),
        seeds=seeds,
        steps=steps,
        threshold=threshold,
        control=control,
        finite=finite,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def check_config(
    config: RunConfig,
    *,
    sizes: Sequence[int] | None = None,
    axis: str = "width",
    seeds: int = SEEDS,
    steps: int = STEPS,
    threshold: float = THRESHOLD,
    control: bool = True,
    finite: Sequence[str] = (),
    device: str = "cpu",
    lr: float | None = None,
    narrow: bool = False,
    on_progress: OnProgress = lambda done, total, news: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CoordinateCheck:
    """Check a config's model on its data, with its hparams at a constant lr without warmup.

    The lr is the config's, but at most the optimizer's `most_lr`.

    Args:
        sizes: base width × 1, 2, 4, 8, 16 when left out; over depth 2, 4, 8, 16, 32.
        device: a torch device.
        lr: lr at base width, whatever the config's.
        narrow: see `verdict.judge`.

    The other arguments are those of `coordinate_check`.

    Raises:
        UsageError: the model cannot be built at some size, or has no such axis; an lr that is not a positive number.
        DataError: the data cannot be used.
        Interrupted: `should_stop` said so.
    """
    record = config.hparams.record
    lr = min(config.hparams.lr, record.most_lr) if lr is None else lr
    if not 0 < lr < math.inf:
        raise UsageError(f"lr must be a positive number, but got {lr:g}")
    return run_check(
        ConfigSubject(config.with_hparams({"lr": lr}), sizes=sizes, axis=axis, device=device),
        lr=lr,
        adam=not gradient_sized(record.family),
        seeds=seeds,
        steps=steps,
        threshold=threshold,
        control=control,
        finite=finite,
        narrow=narrow,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def run_check(
    subject: Subject,
    *,
    lr: float,
    adam: bool,
    seeds: int = SEEDS,
    steps: int = STEPS,
    threshold: float = THRESHOLD,
    control: bool = True,
    finite: Sequence[str] = (),
    narrow: bool = False,
    on_progress: OnProgress = lambda done, total, news: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CoordinateCheck:
    """Measure, judge, measure again what is unclear, and run the control.

    Raises:
        UsageError: no seed, too few steps, or a threshold that is not a positive number.
        Interrupted: `should_stop` said so.
    """
    if seeds < 1:
        raise UsageError(f"seeds must be >= 1, but got {seeds}")
    if steps < LEAST_STEPS:
        raise UsageError(
            f"steps must be >= {LEAST_STEPS} (layers behind others that start at zero move late), but got {steps}"
        )
    if not 0 < threshold < math.inf:
        raise UsageError(f"threshold must be a positive number, but got {threshold:g}")
    with_control = control and subject.has_control
    total, done = seeds * len(subject.sizes) * (2 if with_control else 1), 0

    def on_size(news: str) -> None:
        nonlocal done
        done += 1
        on_progress(done, max(done, total), news)

    def measured(parametrization: str) -> Measurements:
        found = Measurements(parametrization, subject.axis, subject.sizes, steps)
        measure(subject, found, seeds=range(seeds), should_stop=should_stop, on_size=on_size)
        return found

    plan = subject.plan()
    if finite:
        _require_modules(subject, finite, should_stop)
    own = measured(subject.parametrization)

    def judged(measurements: Measurements, *, final: bool) -> tuple[ModuleVerdict, ...]:
        return judge(measurements, threshold=threshold, plan=plan, finite=tuple(finite), final=final, narrow=narrow)

    verdicts = judged(own, final=False)
    failed = any(one.outcome == "fail" for one in verdicts)
    if not failed and any(one.outcome == "unclear" for one in verdicts):
        total += seeds * len(subject.sizes)
        measure(subject, own, seeds=range(seeds, 2 * seeds), should_stop=should_stop, on_size=on_size)
    verdicts = judged(own, final=True)
    sp = measured("sp") if with_control else None
    culprit = first_failure(verdicts)
    return CoordinateCheck(
        parametrization=subject.parametrization,
        axis=subject.axis,
        sizes=subject.sizes,
        steps=steps,
        seeds=own.seeds,
        threshold=threshold,
        lr=lr,
        modules=verdicts,
        control=None if sp is None else judged(sp, final=True),
        culprit=None if culprit is None else culprit.module,
        cause=None if culprit is None else hint_for(culprit, own, adam=adam),
        warnings=_warnings(plan, own),
        measured=(own,) if sp is None else (own, sp),
    )


def _require_modules(subject: Subject, names: Sequence[str], should_stop: Callable[[], bool]) -> None:
    """Refuse names that no module has, after a look at every size and before any training."""
    untrained = Measurements(subject.parametrization, subject.axis, subject.sizes, steps=0)
    measure(subject, untrained, seeds=[0], should_stop=should_stop)
    for name in names:
        if name not in untrained.modules:
            near = difflib.get_close_matches(name, untrained.modules, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(untrained.modules)}"
            raise UsageError(f"--finite {name}: there is no such module; {hint}")


def _warnings(plan: Plan | None, measured: Measurements) -> tuple[str, ...]:
    unmoved = [f"{name} does not move: it has its initial value after all steps" for name in measured.unmoved]
    absent = [f"{name} is not judged: it got no input at some size, seed or step" for name in measured.absent]
    return (*(() if plan is None else plan.warnings), *unmoved, *absent)


def _as_dict(one: ModuleVerdict) -> dict[str, Any]:
    """A module's verdict as JSON-ready data, each reason with its sentence."""
    reasons = [{**as_values(reason), "sentence": coord_words.reason(reason)} for reason in one.reasons]
    return {**plain(asdict(one)), "reasons": reasons}
