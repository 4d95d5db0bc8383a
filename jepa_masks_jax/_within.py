"""The true part of a grid, and plans that depend on its size.

A sample may be smaller than the static grid. Its true part is the first rows and columns, and its
sides may be traced. What a strategy plans on the host for one size is then planned for every size,
and the sample's row is gathered. Everything after that is the same traced code.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _counts, _tracing

Within = Sequence[int | jax.Array] | jax.Array | np.ndarray
"""The true sides of one sample: a whole number for each axis of the grid."""


class TruePart(NamedTuple):
    """The true part of a static grid: its sides are ints, or int32[] if they are traced."""

    grid: tuple[int, ...]
    sides: tuple[Any, ...]

    @property
    def tokens(self) -> Any:
        """The count of true tokens."""
        return math.prod(self.sides)

    @property
    def inside(self) -> jax.Array:
        """True at the true tokens: bool[*grid]."""
        inside = jnp.ones(self.grid, bool)
        for axis, (side, length) in enumerate(zip(self.sides, self.grid, strict=True)):
            if not isinstance(side, int) or side < length:
                inside &= self._at(axis) < side
        return inside

    @property
    def place(self) -> jax.Array:
        """The number of each true token in row-major order: int32[*grid], -1 outside."""
        later_axes = range(1, len(self.grid))
        number = functools.reduce(
            lambda rows, i: rows * self.sides[i] + self._at(i), later_axes, self._at(0)
        )
        return jnp.where(self.inside, number, -1)

    def own(self, words: jax.Array) -> jax.Array:
        """Gives each true token the word of its place: uint32[tokens or more] to uint32[*grid]."""
        if len(self.grid) == 1 or isinstance(self.tokens, int):
            return words[: math.prod(self.grid)].reshape(self.grid)
        return words[jnp.maximum(self.place, 0)]

    def _at(self, axis: int) -> jax.Array:
        """Numbers the places along an axis: int32[*grid]."""
        return lax.broadcasted_iota(jnp.int32, self.grid, axis)


def true_part(grid: tuple[int, ...], within: jax.Array | None) -> TruePart:
    """Returns the whole grid, or the part of it whose sides are clamped into `[1, side]`."""
    if within is None:
        return TruePart(grid, grid)
    sides = (_counts.clamp(within[i], 1, side) for i, side in enumerate(grid))
    return TruePart(grid, tuple(sides))


def inside(grid: _check.Grid, within: Within) -> jax.Array:
    """Returns the true part of a grid.

    The context of a strategy that returns one mask is `inside(grid, within) & ~target`.

    Args:
        grid: one to four sides, at least two tokens.
        within: the true sides, one for each axis: a tuple of ints, or an integer array of shape
            `(rank,)`, traced or not; clamped into `[1, side]`.

    Returns:
        bool[*grid], True in the first rows and columns, as far as the true sides reach.

    Raises:
        TypeError: if `within` does not hold integers.
        ValueError: if `within` does not have one side for each axis, or the grid is invalid.

    Example:
        >>> inside((2, 4), within=(1, 3)).tolist()
        [[True, True, True, False], [False, False, False, False]]
    """
    grid = _check.grid(grid, ranks=(1, 2, 3, 4))
    return _inside(check(within, grid), grid)


@_tracing.jit
def _inside(within: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    return true_part(grid, within).inside


def check(within: Any, grid: tuple[int, ...]) -> Any:
    """Returns the true sides as one integer array, or None."""
    if within is None:
        return None
    form = ", ".join(["int"] * len(grid)) + "," * (len(grid) == 1)
    meaning = f"within must be ({form}), the true sides in the grid {grid}"
    if isinstance(within, tuple | list):
        checked = [_counts.check(f"within[{i}]", side, -math.inf) for i, side in enumerate(within)]
        ints = [min(max(s, 1), _check.MAX_TOKENS) if isinstance(s, int) else s for s in checked]
        if all(isinstance(side, int) for side in ints):
            within = np.array(ints, np.int32)
        else:
            within = jnp.stack([_counts.clamp(jnp.asarray(side), 1) for side in ints])
    dtype, shape = getattr(within, "dtype", None), getattr(within, "shape", ())
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{meaning}, got {_check.brief(within)}")
    if shape != (len(grid),):
        advice = "; use jax.vmap for a batch" if len(shape) > 1 else ""
        raise ValueError(f"{meaning}, got shape {shape}{advice}")
    return _counts.in_int32(within)


class PlanOfEachSize(NamedTuple):
    """A plan for every size up to the largest: a static argument in the place of one plan."""

    plan: Callable[..., Any]
    options: tuple[Any, ...]
    largest: int


def plan_for(plan: Callable[..., Any], size: int, *options: Any, traced: bool = False) -> Any:
    """Returns `plan(size, *options)` in Python ints, or such a plan for every size if it is traced.

    `plan` takes an array of sizes, int64[n], and returns a pytree of such arrays and numbers.
    """
    each = PlanOfEachSize(plan, options, size)
    return each if traced else _of_largest(each)


def plan_at(plan: Any, size: Any) -> Any:
    """Returns the plan of a traced size, its numbers int32[]; any other plan is what it is."""
    if not isinstance(plan, PlanOfEachSize):
        return plan
    table, structure = _table(plan)
    row = _tracing.gather(table, size)
    return jax.tree.unflatten(structure, [row[i] for i in range(table.shape[1])])


@functools.lru_cache(maxsize=1024)
def _of_largest(each: PlanOfEachSize) -> Any:
    rows, structure = _rows(each, np.array([each.largest]))
    return jax.tree.unflatten(structure, rows[0].tolist())


@functools.lru_cache(maxsize=64)
def _table(each: PlanOfEachSize) -> tuple[np.ndarray, Any]:
    """Makes a plan for each size: int32[largest + 1, numbers]; the row of size 0 is that of 1."""
    return _rows(each, np.maximum(np.arange(each.largest + 1), 1))


def _rows(each: PlanOfEachSize, sizes: np.ndarray) -> tuple[np.ndarray, Any]:
    columns, structure = jax.tree.flatten(each.plan(sizes, *each.options))
    numbers = [np.broadcast_to(column, sizes.shape).astype(np.int32) for column in columns]
    return np.stack(numbers, axis=1), structure
