"""A pack's losses and gradients as one CUDA graph: small models wait for kernel launches, which a graph makes once.

What a graph computes is compared with the same computation without one before it is used; where the two differ, or
the capture fails, everything goes on without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mutransfer.training.loss import Tensors

# Calls before the capture: libraries choose kernels and allocate at the first ones.
_WARM_UP = 3
_TOLERANCE = 1e-2

Gradients = tuple[Tensor, list[Tensor | None]]
"""Losses (N,), and a gradient or None per parameter."""
Compute = Callable[[Tensors, Tensor], Gradients]


class Capture:
    """Records a computation as a `torch.cuda.CUDAGraph`."""

    def warm_up(self, run: Callable[[], Gradients]) -> Gradients:
        """Run on another stream, as the capture will and as PyTorch's notes on CUDA graphs ask."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = run()
        torch.cuda.current_stream().wait_stream(side)
        return found

    def record(self, run: Callable[[], Gradients]) -> tuple[Gradients, Callable[[], None]]:
        """Tensors that hold the results, and what computes them again from the same memory."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run()
        return found, graph.replay


class Graphed:
    """`compute` by replaying a graph of it, from the fourth call on.

    The gradients returned are overwritten by the next call, the losses are not.
    """

    def __init__(self, compute: Compute, state: Sequence[Tensor], capture: Capture | None = None) -> None:
        """`compute` may change the tensors of `state` (buffers) in place, and reads nothing else that is replaced."""
        self._compute, self._state, self._capture = compute, state, capture or Capture()
        self._calls = 0
        self._given: Tensors = ()
        self._recorded: tuple[Gradients, Callable[[], None]] | None = None
        self.refused = ""
        """Why there is no graph; empty while there is or may be one."""

    def __call__(self, inputs: Tensors, targets: Tensor) -> Gradients:
        """Losses and gradients of a batch."""
        given = (*inputs, targets)
        if self.refused:
            return self._compute(inputs, targets)
        if self._recorded is None and self._calls < _WARM_UP:
            self._calls += 1
            return self._capture.warm_up(lambda: self._compute(inputs, targets))
        if self._recorded is None:
            return self._record(given)
        if any(one.shape != own.shape or one.dtype != own.dtype for one, own in zip(given, self._given, strict=True)):
            return self._compute(inputs, targets)
        return self._replayed(given, *self._recorded)

    def _record(self, given: Tensors) -> Gradients:
        """Capture, and compare with what a call without a graph gives."""
        before = [one.clone() for one in self._state]
        expected = self._compute(given[:-1], given[-1])
        after = [one.clone() for one in self._state]
        self._given = tuple(one.clone() for one in given)
        try:
            self._recorded = self._capture.record(lambda: self._compute(self._given[:-1], self._given[-1]))
            _set(self._state, before)
            found = self._replayed(given, *self._recorded)
            if not (_close(found, expected) and all(map(_near, self._state, after))):
                self.refused = "its results differ from those without it"
        except RuntimeError as error:
            self.refused = str(error)
        if not self.refused:
            return found
        self._given, self._recorded = (), None
        _set(self._state, after)
        return expected

    def _replayed(self, given: Tensors, found: Gradients, replay: Callable[[], None]) -> Gradients:
        for own, one in zip(self._given, given, strict=True):
            own.copy_(one, non_blocking=True)
        replay()
        losses, gradients = found
        return losses.clone(), gradients


def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _close(found: Gradients, expected: Gradients) -> bool:
    """Whether losses and gradients agree up to the rounding of another kernel; a diverged member is NaN in both."""
    pairs = list(zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        return False
    return all(_near(one, other) for one, other in pairs if one is not None and other is not None)


def _near(one: Tensor, other: Tensor) -> bool:
    finite = other[torch.isfinite(other)].abs()
    size = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * size, equal_nan=True)
