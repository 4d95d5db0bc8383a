"""Boxes: placing them, and making them masks. The core of every block strategy.

The starts and the sizes of boxes are one array for each axis of the grid. A union gives every box
one bit: a word for each row says which boxes reach it, another for each column, and a token is
covered where the words of its row and column have a bit in common.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _draws

PerAxis = Sequence[Any] | jax.Array
"""For each axis of the grid a number, or an array of one number for each box."""

_WORD = 32


def can_cover(num_boxes: int, size: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether `num_boxes` boxes, none larger than `size`, can cover the grid."""
    return num_boxes >= math.prod(
        -(-side // max(part, 1)) for side, part in zip(grid, size, strict=True)
    )


def clamp(size: PerAxis, grid: Sequence[int]) -> tuple[jax.Array, ...]:
    """Keeps sizes within the grid, and at least one token."""
    return tuple(jnp.clip(part, 1, side) for part, side in zip(size, grid, strict=True))


def place(draws: PerAxis, size: PerAxis, room: Sequence[int]) -> list[jax.Array]:
    """Draws starts uniformly over every position that keeps a box inside the room."""
    return [
        _draws.whole_below(draw, side - part + 1)
        for draw, part, side in zip(draws, size, room, strict=True)
    ]


def each_box(start: PerAxis, size: PerAxis, grid: Sequence[int]) -> jax.Array:
    """Makes every box a mask: int32[*n] for each axis to bool[*n, *grid]."""
    return _outer_and([_reach(*axis) for axis in zip(start, size, grid, strict=True)])


def union(start: PerAxis, size: PerAxis, grid: Sequence[int]) -> jax.Array:
    """Makes all boxes one mask: int32[n] for each axis to bool[*grid]."""
    words = [_pack(_reach(*axis)) for axis in zip(start, size, grid, strict=True)]
    return jnp.any(_outer_and(words) != 0, axis=0)


def leave_one(mask: jax.Array, is_full: jax.Array, draw: jax.Array) -> jax.Array:
    """Clears one uniformly random token of a mask that is full."""
    number = lax.iota(jnp.int32, mask.size).reshape(mask.shape)
    return mask & ~(is_full & (number == _draws.whole_below(draw, mask.size)))


def random_union(
    key: jax.Array,
    grid: Sequence[int],
    draw_size: Callable[..., PerAxis],
    *,
    num_boxes: int,
    size_draws: int,
    largest: Sequence[int],
    draw_start: Callable[..., PerAxis] = place,
) -> jax.Array:
    """Draws a mask that is a union of boxes, each of its own size, and leaves at least one token.

    Args:
        key: one PRNG key.
        grid: the static grid.
        draw_size: makes the sizes, one entry for each axis, from `size_draws` arrays of uint32[n].
        num_boxes: how many are drawn.
        size_draws: random words for each size.
        largest: a size that no box exceeds along any axis.
        draw_start: makes the starts from the draws, the sizes and the grid.

    Returns:
        bool[*grid].
    """
    may_be_full = can_cover(num_boxes, largest, grid)
    draws_per_box = size_draws + len(grid)
    num_draws = num_boxes * draws_per_box
    draws = _draws.random_draws(key, num_draws + may_be_full)
    per_box = draws[:num_draws].reshape(num_boxes, draws_per_box).T
    size = clamp(draw_size(*per_box[:size_draws]), grid)
    mask = union(draw_start(per_box[size_draws:], size, grid), size, grid)
    return leave_one(mask, jnp.all(mask), draws[-1]) if may_be_full else mask


def _reach(start: jax.Array, size: Any, side: int) -> jax.Array:
    """Tells which places of one axis each box reaches: int32[*n] to bool[*n, side]."""
    at = lax.broadcasted_iota(jnp.int32, (*start.shape, side), start.ndim)
    stop = start + size
    return (start[..., None] <= at) & (at < stop[..., None])


def _pack(reached: jax.Array) -> jax.Array:
    """Packs bool[n, side] into uint32[words, side], a bit for each box.

    The bits of a word are distinct, so that their sum is their union.
    """
    n, side = reached.shape
    per_word = min(n, _WORD)
    padded = jnp.pad(reached, ((0, -n % per_word), (0, 0))).reshape(-1, per_word, side)
    bit = lax.broadcasted_iota(jnp.uint32, padded.shape, 1)
    return jnp.sum(padded.astype(jnp.uint32) << bit, axis=1, dtype=jnp.uint32)


def _outer_and(axes: Sequence[jax.Array]) -> jax.Array:
    """ANDs [*n, side] of every axis at every token: [*n, *grid]."""
    rank = len(axes)

    def along(axis: int, values: jax.Array) -> jax.Array:
        *n, side = values.shape
        return values.reshape(*n, *(side if i == axis else 1 for i in range(rank)))

    return functools.reduce(jnp.bitwise_and, [along(i, values) for i, values in enumerate(axes)])
