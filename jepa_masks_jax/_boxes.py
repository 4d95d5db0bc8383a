"""N-D boxes, placed on a grid and made into masks: the core that every block strategy shares.

Inside, a row of tokens along the last axis is a few packed words, so that the union of boxes is an
OR of words, unpacked to booleans once. A box's start and size hold one int32[] number for each axis
of the grid.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax._bits import below, first_tokens, random_words, unpack


def can_cover(num_blocks: int, size: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether `num_blocks` boxes, none larger than `size`, can cover the grid."""
    return num_blocks >= math.prod(
        -(-side // max(part, 1)) for side, part in zip(grid, size, strict=True)
    )


def clamp(size: Sequence[jax.Array], grid: Sequence[int]) -> tuple[jax.Array, ...]:
    """Keeps a box's size within the grid, and at one token at the least."""
    return tuple(jnp.clip(part, 1, side) for part, side in zip(size, grid, strict=True))


def place(bits: Sequence[jax.Array], size: Sequence[Any], room: Sequence[int]) -> list[jax.Array]:
    """Draws a box's start uniformly over every position that keeps it inside the room."""
    return [below(b, side - part + 1) for b, part, side in zip(bits, size, room, strict=True)]


def box(start: Sequence[Any], size: Sequence[Any], grid: Sequence[int]) -> jax.Array:
    """Packs a box: uint32[*grid[:-1], words]."""
    *rows, width = grid
    row = first_tokens(start[-1] + size[-1], width) & ~first_tokens(start[-1], width)
    words = jnp.broadcast_to(row, (*rows, *row.shape))
    for axis in range(len(rows)):
        at = lax.broadcasted_iota(jnp.int32, words.shape, axis)
        inside = (at >= start[axis]) & (at < start[axis] + size[axis])
        words = jnp.where(inside, words, jnp.uint32(0))
    return words


def union(boxes: jax.Array) -> jax.Array:
    """ORs uint32[n, ...] over n, once; XLA would compute a chain of `|` again for every token."""
    return lax.reduce(boxes, np.uint32(0), lax.bitwise_or, (0,))


def full(shape: Sequence[int], width: int) -> jax.Array:
    """Packs rows of `width` tokens that are all set, as words of a shape: uint32[*shape]."""
    return jnp.broadcast_to(first_tokens(width, width), shape)


def is_full(words: jax.Array, width: int) -> jax.Array:
    """Whether every token of every row is set: bool[]."""
    return jnp.all(words == full(words.shape, width))


def leave_one(words: jax.Array, bits: jax.Array, grid: Sequence[int]) -> jax.Array:
    """Clears one uniformly random token where all are set."""
    token = jnp.unravel_index(below(bits, math.prod(grid)), grid)
    freed = box(token, (1,) * len(grid), grid)
    return words & ~jnp.where(is_full(words, grid[-1]), freed, jnp.uint32(0))


def random_union(
    key: jax.Array,
    grid: Sequence[int],
    block: Callable[[jax.Array], jax.Array],
    *,
    num_blocks: int,
    words_per_block: int,
    largest: Sequence[int],
) -> jax.Array:
    """Draws a mask that is a union of blocks and leaves one token out of it at the least.

    Args:
        key: one PRNG key.
        grid: the static grid.
        block: packs one block from its random words, uint32[words_per_block].
        num_blocks: how many are drawn.
        words_per_block: random words for each.
        largest: a size that no block exceeds along any axis.

    Returns:
        bool[*grid].
    """
    may_be_full = can_cover(num_blocks, largest, grid)
    num_words = num_blocks * words_per_block
    bits = random_words(key, num_words + may_be_full)
    words = union(jax.vmap(block)(bits[:num_words].reshape(num_blocks, words_per_block)))
    if may_be_full:
        words = leave_one(words, bits[-1], grid)
    return unpack(words, grid[-1])
