"""Measuring: every module's size and its change since init, over sizes, seeds and steps."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mutransfer.errors import Interrupted
from mutransfer.files import write_atomic
from mutransfer.parametrization.plan import layer_of
from mutransfer.verification.activations import ATTENTION_LOGITS, Activation, mean_abs, record, rms
from mutransfer.verification.slopes import fit_slope
from mutransfer.verification.subject import Subject, Trainee

QUANTITIES = ("rms", "mean_abs", "change_rms", "change_mean_abs", "update_rms", "update_mean_abs")
"""Size of the output; of its change since init; and of the part of the change that the layer's own weights made,
which other layers' changes cannot hide (NaN for modules that are no layer)."""
SIZES, UPDATES = QUANTITIES[:2], QUANTITIES[4:]
Numbers = NDArray[np.float64]
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ModuleFacts:
    """What does not depend on seed and step, for one module at every size."""

    shapes: tuple[tuple[int, ...], ...]
    """Shape of the output on the probe, per size."""
    own_name: str
    """The module's name in the largest model."""
    trainable: bool
    """Whether its output depends on a trainable parameter."""
    finite: bool
    """Whether the model says that it does not grow on purpose: a pattern in `ModelFacts.finite` matches."""
    has_weights: bool
    """Whether it has a parameter of its own."""
    started: int
    finished: int

    @property
    def grows(self) -> bool:
        """Whether any dimension of the output differs between sizes."""
        return len(set(self.shapes)) > 1


@dataclass(frozen=True)
class ParameterFacts:
    """What holds of one parameter, with the exponents of what it was given."""

    std: float | None
    """Exponent of its initial RMS over sizes; None where it is zero or absent somewhere."""
    lr: float | None
    """Exponent of its lr in the optimizer's groups."""


@dataclass
class Measurements:
    """Everything measured of one parametrization."""

    parametrization: str
    axis: str
    sizes: tuple[int, ...]
    steps: int
    values: dict[str, dict[str, Numbers]] = field(default_factory=dict)
    """`{module: {quantity: (seeds, sizes, steps + 1)}}`, modules in the order in which they finish."""
    held: dict[str, Numbers] = field(default_factory=dict)
    """`{module: (seeds, sizes)}`: size at init without what may follow width on purpose. Of attention logits: of their
    deviation from the mean over the batch, which takes out position biases. Of other modules: while inner readouts,
    whose output fades at init, are made to keep their size."""
    modules: dict[str, ModuleFacts] = field(default_factory=dict)
    parameters: dict[str, ParameterFacts] = field(default_factory=dict)
    not_optimized: tuple[str, ...] = ()
    """Trainable parameters that are in no group of the optimizer, at any size."""
    unmoved: tuple[str, ...] = ()
    """Parameters in the optimizer that are, at some size, after all steps what they were."""
    absent: tuple[str, ...] = ()
    """Modules that gave nothing at some size, seed or step, as an expert without a token does: they are not judged."""

    @property
    def seeds(self) -> int:
        """Seeds measured so far."""
        return next((len(one["rms"]) for one in self.values.values()), 0)

    def rows(self) -> Iterator[tuple[str, int, int, int, str, str, float]]:
        """(parametrization, size, seed, step, module, quantity, value), the long form."""
        for module, quantities in self.values.items():
            for quantity, array in quantities.items():
                for (seed, at, step), value in np.ndenumerate(array):
                    if quantity in SIZES or (step and not (quantity in UPDATES and np.isnan(value))):
                        yield self.parametrization, self.sizes[at], seed, step, module, quantity, float(value)


@dataclass(frozen=True)
class _Look:
    """What one run of one trainee showed, by the names that modules have at its size."""

    values: dict[str, Numbers]
    """`{module: (quantities, steps + 1)}`"""
    held: dict[str, float]
    """`{module: size at init}`, see `Measurements.held`."""
    absent: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    trainable: dict[str, bool]
    finite: dict[str, bool]
    has_weights: dict[str, bool]
    started: dict[str, int]
    finished: dict[str, int]
    parameters: dict[str, tuple[float, float | None]]
    """`{parameter: (initial RMS, lr)}`"""
    not_optimized: tuple[str, ...]
    unmoved: tuple[str, ...]


def measure(
    subject: Subject,
    into: Measurements,
    *,
    seeds: Sequence[int],
    should_stop: Callable[[], bool] = lambda: False,
    on_size: Callable[[str], None] = lambda text: None,
) -> None:
    """Train the subject at every size with every seed and add what it showed to `into`.

    Raises:
        Interrupted: `should_stop` said so.
    """
    for seed in seeds:
        looks = []
        for size in into.sizes:
            looks.append(_look(subject.trainee(size, seed, into.parametrization), into.steps, should_stop))
            on_size(f"{into.parametrization}, {subject.axis} {size}, seed {seed}")
        _add(into, looks)


def write_activations(path: Path, measured: Sequence[Measurements]) -> None:
    """Write the long form as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["parametrization", "size", "seed", "step", "module", "quantity", "value"])
    for one in measured:
        writer.writerows((*row[:-1], f"{row[-1]:.6g}") for row in one.rows())
    write_atomic(path, text.getvalue())


def _look(trainee: Trainee, steps: int, should_stop: Callable[[], bool]) -> _Look:
    model = trainee.model
    named = dict(model.named_parameters(remove_duplicate=False))
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    lrs = {
        id(parameter): float(group["lr"]) for group in trainee.optimizer.param_groups for parameter in group["params"]
    }
    initial = record(model, trainee.probe, with_gradient=True)
    held = _held(trainee, initial)
    absent: dict[str, None] = {}
    values = {name: np.zeros((len(QUANTITIES), steps + 1)) for name in initial}
    for name, activation in initial.items():
        values[name][:2, 0] = rms(activation.values), mean_abs(activation.values)
    for step in range(steps):
        if should_stop():
            raise Interrupted("stopped in a coordinate check, which keeps nothing; the same command starts it again")
        trainee.train_step(step)
        now = record(model, trainee.probe, initial=before)
        absent |= dict.fromkeys(values.keys() ^ now.keys())
        for name, own in values.items():
            own[:, step + 1] = np.nan
            if name in now:
                looked, same = now[name], now[name].shape == initial[name].shape
                # Tokens that go to another expert than before have no change; the layer's own update is known.
                parts = [looked.values, looked.values - initial[name].values if same else None, looked.update]
                for at, part in enumerate(parts):
                    if part is not None:
                        own[2 * at : 2 * at + 2, step + 1] = rms(part), mean_abs(part)
    finite = trainee.facts.finite
    owners = set(map(layer_of, named))
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return _Look(
        values=values,
        held=held,
        absent=tuple(absent),
        shapes={name: activation.shape for name, activation in initial.items()},
        trainable={name: activation.trainable for name, activation in initial.items()},
        finite={name: any(fnmatch.fnmatchcase(name, one) for one in finite) for name in initial},
        has_weights={name: name.partition("#")[0] in owners for name in initial},
        started={name: activation.started for name, activation in initial.items()},
        finished={name: activation.finished for name, activation in initial.items()},
        parameters={name: (rms(before[name]), lrs.get(id(parameter))) for name, parameter in trainable.items()},
        not_optimized=tuple(name for name, parameter in trainable.items() if id(parameter) not in lrs),
        unmoved=tuple(
            name
            for name, parameter in trainable.items()
            if id(parameter) in lrs and torch.equal(parameter.detach(), before[name])
        ),
    )


def _held(trainee: Trainee, initial: Mapping[str, Activation]) -> dict[str, float]:
    """See `Measurements.held`."""
    found = {
        name: rms(one.values - one.values.nanmean(0, keepdim=True))
        for name, one in initial.items()
        if ATTENTION_LOGITS in name and len(one.values) > 1
    }
    modules = dict(trainee.model.named_modules())
    factors = {name: factor for name, factor in trainee.fading.items() if name in modules}
    if not factors:
        return found
    hooks = [
        modules[name].register_forward_hook(lambda module, inputs, output, by=factor: output * by)
        for name, factor in factors.items()
    ]
    try:
        kept = record(trainee.model, trainee.probe)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: rms(one.values) for name, one in kept.items()} | found


def _add(into: Measurements, looks: Sequence[_Look]) -> None:
    names = [_common_names(look.values, looks) for look in looks]
    gone = {own.get(name, name) for look, own in zip(looks, names, strict=True) for name in look.absent}
    shared = [name for name in names[0].values() if name not in gone and all(name in one.values() for one in names)]
    if into.modules:  # an expert that got tokens with the seeds before may get none with this one
        gone |= into.modules.keys() - set(shared)
        shared = [name for name in shared if name in into.modules]
    gone |= {name for one in names for name in one.values() if name not in shared and into.axis == "width"}
    into.absent = tuple(dict.fromkeys([*into.absent, *sorted(gone)]))
    for name in gone & into.modules.keys():
        del into.values[name], into.modules[name]
        into.held.pop(name, None)
    raw = [{common: own for own, common in one.items()} for one in names]
    for name in shared:
        per_size = [look.values[own[name]] for look, own in zip(looks, raw, strict=True)]
        known = into.values.setdefault(name, {})
        for index, quantity in enumerate(QUANTITIES):
            new = np.stack([one[index] for one in per_size])[None]
            known[quantity] = np.concatenate([known[quantity], new]) if quantity in known else new
        if all(own[name] in look.held for look, own in zip(looks, raw, strict=True)):
            row = np.array([[look.held[own[name]] for look, own in zip(looks, raw, strict=True)]])
            into.held[name] = np.concatenate([into.held[name], row]) if name in into.held else row
    if into.modules:
        return
    for name in shared:
        own = raw[-1][name]
        into.modules[name] = ModuleFacts(
            shapes=tuple(look.shapes[names_at[name]] for look, names_at in zip(looks, raw, strict=True)),
            own_name=own,
            trainable=looks[-1].trainable[own],
            finite=looks[-1].finite[own],
            has_weights=looks[-1].has_weights[own],
            started=looks[-1].started[own],
            finished=looks[-1].finished[own],
        )
    for name in looks[-1].parameters:
        given = [look.parameters.get(name) for look in looks]
        into.parameters[name] = ParameterFacts(
            std=_exponent(into.sizes, [None if one is None else one[0] for one in given]),
            lr=_exponent(into.sizes, [None if one is None else one[1] for one in given]),
        )
    into.not_optimized = tuple(dict.fromkeys(name for look in looks for name in look.not_optimized))
    into.unmoved = tuple(dict.fromkeys(name for look in looks for name in look.unmoved))


def _exponent(sizes: Sequence[int], values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value]
    return fit_slope(sizes, [present]).value if len(present) == len(sizes) else None


def _common_names(own: Mapping[str, Numbers], looks: Sequence[_Look]) -> dict[str, str]:
    """`{module: the name it is compared under}`.

    Of lists whose length differs between sizes (blocks over depth) the first and the last entry are compared, as
    `blocks.first` and `blocks.last`, and those between are left out.
    """
    lengths = [_list_lengths(look.values) for look in looks]
    mine = _list_lengths(own)
    varying = {prefix for prefix in mine if any(one.get(prefix) != mine[prefix] for one in lengths)}
    found = {}
    for name in own:
        parts = name.split(".")
        for at, part in enumerate(parts):
            prefix = ".".join(name.split(".")[:at])
            if part.isdecimal() and prefix in varying:
                last = mine[prefix]
                parts[at] = "last" if int(part) == last else "first" if int(part) == 0 else "between"
        if "between" not in parts:
            found[name] = ".".join(parts)
    return found


def _list_lengths(names: Mapping[str, Numbers]) -> dict[str, int]:
    """`{prefix: highest number behind it}`"""
    highest: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for at, part in enumerate(parts):
            if part.isdecimal():
                prefix = ".".join(parts[:at])
                highest[prefix] = max(highest.get(prefix, 0), int(part))
    return highest
