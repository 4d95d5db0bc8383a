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
from jepa_masks_jax._within import TruePart

PerAxis = Sequence[Any] | jax.Array


def can_cover(num_boxes: int, sides: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether `num_boxes` boxes, none with longer sides, can cover the grid."""
    return num_boxes >= math.prod(
        -(-length // max(side, 1)) for side, length in zip(sides, grid, strict=True)
    )


def words_of_boxes(
    key: jax.Array, num_boxes: int, per_box: int, may_be_full: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns words for each box, and one more if the boxes may be full, for the token left out.

    Returns:
        uint32[per_box, num_boxes] and uint32[].
    """
    count = num_boxes * per_box
    words = _draws.random_words(key, count + may_be_full)
    return words[:count].reshape(num_boxes, per_box).T, words[-1]


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


def token_left(part: TruePart, is_full: jax.Array, word: jax.Array) -> jax.Array:
    """Picks one uniformly random token of the true part if a mask is full: bool[*grid]."""
    return is_full & (part.place == _draws.below(word, part.tokens))


def leave_one(mask: jax.Array, part: TruePart, word: jax.Array) -> jax.Array:
    """Clears one uniformly random token of a mask that covers the true part."""
    return mask & ~token_left(part, jnp.all(mask | ~part.inside), word)
