"""An exact count of random tokens."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jepa_masks_jax import _check, _counts, _draws, _subsets, _tracing, _within
from jepa_masks_jax._check import Array, CountOrRange, Grid, Int, Range, Real, Within


def random_mask(
    key: jax.Array,
    grid: Grid,
    *,
    mask_ratio: Real | Range | None = None,
    num_masked: CountOrRange | None = None,
    cell: Grid | None = None,
    within: Within | None = None,
    among: Array | None = None,
) -> jax.Array:
    """Samples exactly `n` random tokens, or `n` random cells (e.g. 4x4 tokens), as MAE masks them.

    One of these options sets `n`. With `cell`, read "tokens" as "cells":

        mask_ratio=r           round(r * tokens), half to even, at least 1, at most tokens - 1
        mask_ratio=(lo, hi)    uniform between the counts of the two ratios
        num_masked=n           n, from 1 to tokens - 1
        num_masked=(lo, hi)    uniform between the two, both included
        num_masked=array       an integer array of shape (), traced or not, clamped into
                               [1, tokens - 1]

    At least one token is masked and one stays context. A count that may be 0 or all, such as
    MaskGIT's, is `clip_count(key, jnp.zeros(grid, bool), exactly=n)`. With the same key, the mask
    with the larger count contains the mask with the smaller count.

    Args:
        key: a single PRNG key.
        grid: one to four sides, at least two tokens.
        mask_ratio: fraction of the tokens to mask, in `(0, 1)`, or a pair `(min, max)`.
        num_masked: count of tokens to mask. Exactly one of `mask_ratio` and `num_masked` is given.
        cell: sides of a cell, which divide those of the grid into at least two cells: `(8, 8)` for
            SimMIM's squares, `(frames, 1, 1)` for the same tokens in every frame,
            `(1, height, width)` for whole frames. Single tokens if None.
        within: the real sides of a sample that is smaller than the grid, such as `(9, 12)` in a
            grid of `(16, 16)`: ints, or an integer array of shape `(rank,)`, traced or not, clamped
            into `[1, side]`. The mask is the one that `grid=within` gives with the same key, False
            outside, and the context is `inside(grid, within) & ~mask`.
        among: bool[*grid], traced or not: the tokens that may be masked, such as those with data.
            Ratios and counts are of these tokens. All if None.

    Returns:
        bool[*grid], True at exactly `n` tokens, or at all tokens of exactly `n` cells.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or neither of
            `mask_ratio` and `num_masked` are given.
        ValueError: if an option is out of its range, if `among` differs in shape from the grid, or
            if `cell` is given together with `within` or `among`.

    Notes:
        With `within` or `among`, every count is cut to one less than the tokens that may be masked.
        If there is only one, or none, the mask is empty. With `among`, without `within`, the mask
        equals `clip_count(key, jnp.zeros(grid, bool), exactly=n, among=among)`, bit for bit.

    Source:
        He et al. (2022), "Masked Autoencoders Are Scalable Vision Learners", section 3.

    Example:
        >>> mask = random_mask(jax.random.key(0), (14, 14), mask_ratio=0.75)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 147)

        Half of the tokens that have data, of a satellite image with gaps:

        >>> has_data = jnp.arange(196).reshape(14, 14) % 7 > 2
        >>> mask = random_mask(jax.random.key(0), (14, 14), mask_ratio=0.5, among=has_data)
        >>> int(has_data.sum()), int(mask.sum()), bool((mask & ~has_data).any())
        (112, 56, False)

        A count that follows a schedule without a new compilation:

        >>> ratio = jnp.float32(0.4)  # such as optax.linear_schedule(0.4, 0.8, 1000)(step)
        >>> count = jnp.round(196 * ratio).astype(jnp.int32)
        >>> int(random_mask(jax.random.key(0), (14, 14), num_masked=count).sum())
        78
    """
    key, grid = _check.key(key), _check.grid(grid, (1, 2, 3, 4))
    within, among = _check.within(within, grid), _check.among(among, grid)
    if cell is not None and (within is not None or among is not None):
        other = "among" if within is None else "within"
        raise ValueError(f"cell must not be given together with {other}, got {_check.brief(cell)}")
    sides = (1,) * len(grid) if cell is None else _check_cell(cell, grid)
    cells = tuple(length // side for length, side in zip(grid, sides, strict=True))
    masked = _counts.masked(mask_ratio, num_masked, math.prod(cells))

    @_tracing.jit
    def sample(key: jax.Array, masked: Any, within: Any, among: jax.Array | None) -> jax.Array:
        real, num_cells = _within.real_part(cells, within), math.prod(cells)
        pool = real.inside if among is None else real.inside & among
        eligible = real.tokens if among is None else jnp.sum(pool, dtype=jnp.int32)
        words = _draws.random_words(key, num_cells + 1)
        count_word = words[real.tokens]
        count = _counts.sample_masked(count_word, eligible, masked, largest=num_cells)
        mask = _subsets.random_subset(real.own(words).reshape(-1), pool.reshape(-1), count)
        mask = mask.reshape(cells)
        for axis, side in enumerate(sides):
            mask = jnp.repeat(mask, side, axis)
        return mask

    return sample(key, masked, within, among)


def random_tube_mask(key: jax.Array, grid: Grid, *, mask_ratio: Real) -> jax.Array:
    """Samples random tokens of a frame and masks them in every frame, as VideoMAE does.

    Args:
        key: a single PRNG key.
        grid: `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame's tokens to mask, in `(0, 1)`.

    Returns:
        bool[*grid] with exactly `round(mask_ratio * height * width)` True tokens in every frame
        (half to even), but at least 1 and at most `height * width - 1`.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if an option is out of its range.

    Source:
        Tong et al. (2022), "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
        Self-Supervised Video Pre-Training", section 3.2.

    Example:
        >>> mask = random_tube_mask(jax.random.key(0), (8, 14, 14), mask_ratio=0.9)
        >>> mask.shape, int(mask.sum())
        ((8, 14, 14), 1408)
    """
    key, grid = _check.key(key), _check.grid(grid, (3,), whole_frames=True)
    ratio = _check.fraction("mask_ratio", mask_ratio)
    return random_mask(key, grid, mask_ratio=ratio, cell=(grid[0], 1, 1))


def object_mask(
    key: jax.Array, num_slots: Int, *, num_masked: CountOrRange = 2, among: Array | None = None
) -> jax.Array:
    """Samples a random subset of object slots, as C-JEPA masks them.

    Args:
        key: a single PRNG key.
        num_slots: count of slots, from 2 to 2**24.
        num_masked: count of slots to mask, from 1 to `num_slots - 1`; or a pair `(min, max)`, from
            which it is sampled uniformly, both included; or an integer array of shape (), traced or
            not, which is clamped into that range.
        among: bool[num_slots], traced or not: the slots that may be masked, such as those that hold
            an object. Counts are of these slots, as in `random_mask`. All if None.

    Returns:
        bool[num_slots], True at the masked slots.

    Raises:
        TypeError: if `key` is not a key or a count is not an integer.
        ValueError: if a count is out of its range, or if `among` differs in shape from the slots.

    Source:
        C-JEPA, github.com/galilai-group/cjepa.

    Example:
        >>> mask = object_mask(jax.random.key(0), 7, num_masked=2)
        >>> mask.shape, int(mask.sum())
        ((7,), 2)

        To hide the slots in all frames but the first:

        >>> jnp.broadcast_to(mask, (4, 7)).at[0].set(False).sum(1).tolist()
        [0, 2, 2, 2]
    """
    key, slots = _check.key(key), _check.integer("num_slots", num_slots, 2, _check.MAX_TOKENS)
    if num_masked is None:
        raise TypeError("num_masked must be an integer or a pair (min, max), got None")
    return random_mask(key, (slots,), num_masked=num_masked, among=among)


def _check_cell(cell: Any, grid: tuple[int, ...]) -> tuple[int, ...]:
    meaning = f"{len(grid)} sides that divide those of the grid {grid} into at least two cells"
    sides = _check.sequence("cell", cell, (len(grid),), meaning)
    sides = tuple(_check.integer(f"cell[{i}]", side) for i, side in enumerate(sides))
    if any(length % side for length, side in zip(grid, sides, strict=True)) or sides == grid:
        raise ValueError(f"cell must be {meaning}, got {_check.brief(cell)}")
    return sides
