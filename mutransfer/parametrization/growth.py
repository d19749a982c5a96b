"""How dimensions grow: a role needs them to follow width, and a sum of two parts (a·width + c) follows none.

A matrix that holds parts of different roles, such as `Linear(width, width + classes)`, grows by an offset: no single
lr is right for it. Sizes rounded to a multiple of something look like that at two widths, and not at four.

A layer from the width to a constant size has the shape of a readout, wherever in the network it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from mutransfer.errors import PlanError
from mutransfer.parametrization.plan import ParameterShape

Shapes = Mapping[str, tuple[int, ...]]
_DOUBLINGS = (1, 2, 4, 8)


def check_growth(
    base: Shapes,
    wider: Shapes,
    further: Callable[[int], Shapes],
    *,
    base_width: int,
    given: Callable[[str], bool],
) -> list[str]:
    """Refuse dimensions that grow by an offset; warn of those that are rounded.

    Args:
        base: `{parameter: shape}` at the base width.
        wider: the same at twice the base width.
        further: called with a width, gives the shapes there; only where some dimension does not double.
        given: whether the user has said which role the parameter of a name has.

    Raises:
        PlanError: a dimension is a·width + c, with c ≠ 0.
    """
    suspects = [
        (name, dimension)
        for name, shape in base.items()
        for dimension, size in enumerate(shape if len(shape) == len(wider[name]) else ())
        if wider[name][dimension] not in (size, 2 * size) and not given(name)
    ]
    if not suspects:
        return []
    try:
        shapes = [base, wider, *(further(base_width * factor) for factor in _DOUBLINGS[2:])]
    except PlanError:  # a factory that takes few widths only; what two widths say is all there is
        shapes = [base, wider]
    warnings = []
    for name, dimension in suspects:
        sizes = [one[name][dimension] for one in shapes]
        offset = 2 * sizes[0] - sizes[1]
        affine = all(after - before == (sizes[0] - offset) * factor
                     for before, after, factor in zip(sizes, sizes[1:], _DOUBLINGS, strict=False))  # fmt: skip
        if len(sizes) > 2 and affine:
            slope = (sizes[0] - offset) / base_width
            raise PlanError(
                f"{name}: dimension {dimension} is {slope:g} × width {'+' if offset > 0 else '-'} {abs(offset)} "
                f"({sizes[0]} at width {base_width}, {sizes[1]} at {2 * base_width}): one part of it grows and "
                "another does not, but one weight has one lr. Make a layer of each part, or give its role with "
                f"roles={{{name!r}: 'hidden'}} (or input, output, vector)"
            )
        power = all(after * sizes[0] == before * sizes[1] for before, after in pairwise(sizes))
        if not power:
            warnings.append(
                f"{name}: dimension {dimension} is {sizes[0]} at width {base_width} and {sizes[1]} at "
                f"{2 * base_width}, so it is rounded; its multipliers follow the size that it has"
            )
    return warnings


def suspect_bottlenecks(shapes: Sequence[ParameterShape], *, given: Callable[[str], bool]) -> list[str]:
    """Warnings on weights of role output after which the network does not end, as far as shapes tell.

    Modules are made in the order in which data goes through them, mostly; so a readout is the last layer, and a layer
    after it, above all one whose input is as large as its output, makes it a bottleneck.

    Args:
        shapes: in the order in which the model registers them.
        given: whether the user has said which role the parameter of a name has.
    """
    warnings = []
    for place, shape in enumerate(shapes):
        if shape.role != "output" or shape.tied_to is not None or given(shape.name):
            continue
        after = following(shapes[place:])
        # A single one may be a head that is registered before the trunk.
        alone = sum(one.role == "output" and one.tied_to is None and not given(one.name) for one in shapes) == 1
        if after is not None and not (alone and after.fan_in != shape.fan_out):
            takes = f"takes {shape.fan_out} inputs and " if after.fan_in == shape.fan_out else ""
            warnings.append(
                f"{shape.name}: goes from the width to {shape.fan_out} at every width, so its input is multiplied by "
                f"1/m_in, as a readout's is; but {after.name} {takes}comes after it. Say what it is. For a bottleneck, "
                f'a router or an auxiliary head write roles: {{"{shape.name}": output}}; for the readout write '
                f"readouts: [{shape.module}]"
            )
    return warnings


def following(shapes: Sequence[ParameterShape]) -> ParameterShape | None:
    """The layer after the first of `shapes`: the next one whose fan-in is that one's fan-out, or else the next one."""
    first, *later = shapes
    layers = [one for one in later if one.multiplies and one.role in ("input", "hidden")]
    takes = (one for one in layers if one.role == "input" and one.fan_in == first.fan_out)
    return next(takes, None) or next(iter(layers), None)
