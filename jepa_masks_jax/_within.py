"""The real part of a grid: a sample may be smaller, and its sides may be traced."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _tracing
from jepa_masks_jax._check import Grid, Within


class RealPart(NamedTuple):
    """The first rows and columns of a static grid, as far as the real sides reach."""

    grid: tuple[int, ...]
    within: tuple[Any, ...]
    """The real sides: ints, or int32[] if they are traced."""

    @property
    def tokens(self) -> Any:
        """The count of real tokens."""
        return math.prod(self.within)

    @property
    def inside(self) -> jax.Array:
        """True at the real tokens: bool[*grid]."""
        inside = jnp.ones(self.grid, bool)
        for axis, (side, length) in enumerate(zip(self.within, self.grid, strict=True)):
            if not isinstance(side, int) or side < length:
                inside &= self._at(axis) < side
        return inside

    @property
    def place(self) -> jax.Array:
        """The place of each real token in row-major order: int32[*grid], -1 outside."""
        place = self._at(0)
        for axis in range(1, len(self.grid)):
            place = place * self.within[axis] + self._at(axis)
        return jnp.where(self.inside, place, -1)

    def own(self, words: jax.Array) -> jax.Array:
        """Gives each real token the word of its place: uint32[tokens or more] to uint32[*grid]."""
        if len(self.grid) == 1 or isinstance(self.tokens, int):
            return words[: math.prod(self.grid)].reshape(self.grid)
        return words[jnp.maximum(self.place, 0)]

    def _at(self, axis: int) -> jax.Array:
        """The place of each token along an axis: int32[*grid]."""
        return lax.broadcasted_iota(jnp.int32, self.grid, axis)


def real_part(grid: tuple[int, ...], within: Any) -> RealPart:
    """Returns the whole grid, or the part of it whose sides are clamped into `[1, side]`."""
    if within is None:
        return RealPart(grid, grid)
    clamped = (_check.clamp(within[axis], 1, length) for axis, length in enumerate(grid))
    return RealPart(grid, tuple(clamped))


def inside(grid: Grid, within: Within) -> jax.Array:
    """Marks the real tokens of a padded grid.

    The context of a strategy that returns one mask is `inside(grid, within) & ~target`.

    Args:
        grid: one to four sides, at least two tokens.
        within: the real sides, one for each axis: a tuple of ints, or an integer array of shape
            `(rank,)`, traced or not; clamped into `[1, side]`.

    Returns:
        bool[*grid], True in the first rows and columns, as far as the real sides reach.

    Raises:
        TypeError: if `within` does not hold integers.
        ValueError: if `within` does not have one side for each axis, or the grid is invalid.

    Example:
        >>> inside((2, 4), within=(1, 3)).tolist()
        [[True, True, True, False], [False, False, False, False]]
    """
    grid = _check.grid(grid, (1, 2, 3, 4))

    @_tracing.jit
    def marked(within: Any) -> jax.Array:
        return real_part(grid, within).inside

    return marked(_check.within(within, grid))
