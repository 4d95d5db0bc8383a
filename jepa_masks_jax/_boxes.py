"""Boxes: placing them, and making them masks. The core of every block strategy.

Words, starts and sides have an entry for each axis of the grid: a number, or an array with one
number for each box.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _draws
from jepa_masks_jax._within import RealPart

PerAxis = Sequence[Any] | jax.Array


def can_cover(num_boxes: int, sides: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether `num_boxes` boxes, none with longer sides, can cover the grid."""
    return num_boxes >= math.prod(
        -(-length // max(side, 1)) for side, length in zip(sides, grid, strict=True)
    )


def words_of_boxes(
    key: jax.Array, num_boxes: int, per_box: int, *, may_be_full: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Returns words for each box, and one for the token to leave if the boxes may be full.

    Returns:
        uint32[per_box, num_boxes], and uint32[] or None.
    """
    count = num_boxes * per_box
    words = _draws.random_words(key, count + 1 if may_be_full else count)
    return words[:count].reshape(num_boxes, per_box).T, words[-1] if may_be_full else None


def place_each(
    words: PerAxis, sides: PerAxis, room: Sequence[Any], grid: Sequence[int]
) -> jax.Array:
    """Places boxes, each uniformly over every position that keeps it inside the room.

    Args:
        words: uint32[*n] for each axis.
        sides: int32[*n] or int32[] for each axis, here cut to the room and made at least 1.
        room: the side of the room along each axis, which starts at the first token.
        grid: the static grid.

    Returns:
        bool[*n, *grid].
    """
    sides = [jnp.clip(side, 1, length) for side, length in zip(sides, room, strict=True)]
    starts = [
        _draws.below(word, length - side + 1)
        for word, side, length in zip(words, sides, room, strict=True)
    ]
    return each_box(starts, sides, grid)


def each_box(starts: PerAxis, sides: PerAxis, grid: Sequence[int]) -> jax.Array:
    """Makes every box a mask, cut off at the edges of the grid: bool[*n, *grid]."""
    n, reached = starts[0].ndim, []
    for axis, (start, side) in enumerate(zip(starts, sides, strict=True)):
        at = lax.broadcasted_iota(jnp.int32, [1] * n + list(grid), n + axis)
        start, stop = (jnp.expand_dims(x, range(n, n + len(grid))) for x in (start, start + side))
        reached.append((start <= at) & (at < stop))
    return functools.reduce(jnp.bitwise_and, reached)


def union(
    words: PerAxis, sides: PerAxis, grid: tuple[int, ...], last_word: jax.Array | None
) -> jax.Array:
    """Unites boxes placed in a grid; a last word is given if they can cover it: bool[*grid]."""
    mask = jnp.any(place_each(words, sides, grid, grid), axis=0)
    return mask if last_word is None else leave_one(mask, RealPart(grid, grid), last_word)


def token_left(mask: jax.Array, real: RealPart, word: jax.Array) -> jax.Array:
    """Picks one uniformly random token of the real part if a mask covers it: bool[*grid]."""
    is_full = jnp.all(mask | ~real.inside)
    return is_full & (real.place == _draws.below(word, real.tokens))


def leave_one(mask: jax.Array, real: RealPart, word: jax.Array) -> jax.Array:
    """Clears one uniformly random token of a mask that covers the real part."""
    return mask & ~token_left(mask, real, word)
