"""Boxes of any size, to build your own strategy from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _boxes, _check, _draws, _tracing, _within
from jepa_masks_jax._check import Grid, Int, IntRange, Within


def box_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_boxes: Int,
    extent: Sequence[Int | IntRange | None] | np.ndarray,
    placement: Literal["inside", "centered"] = "inside",
    within: Within | None = None,
) -> jax.Array:
    """Samples a union of boxes of given sizes: spans, strips, cubes, for a strategy of your own.

    Each box samples its own sides from `extent`. They are cut to the grid. If the boxes cover the
    whole grid, one random token is left unmasked.

    Args:
        key: a single PRNG key.
        grid: one to four sides, at least two tokens.
        num_boxes: count of boxes, from 1 to 2**16; they may overlap.
        extent: one entry for each axis: an int, a pair `(min, max)` from which each box samples its
            side uniformly, both included, or None for the whole axis. Whole numbers from 1 to
            2**24. On a sequence write `((2, 4),)`; `(2, 4)` is 2 high and 4 wide on an image.
        placement: `"inside"` places a box uniformly over every position that keeps it inside.
            `"centered"` samples its center uniformly over all tokens, starts it at
            `center - side // 2`, and cuts it off at the edges. A whole axis has no center.
        within: the real sides of a sample that is smaller than the grid: ints, or an integer array
            of shape `(rank,)`, traced or not, clamped into `[1, side]`. The mask is the one that
            `grid=within` gives with the same key, False outside, and the context is
            `inside(grid, within) & ~mask`.

    Returns:
        bool[*grid], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if an option is out of its range.

    Notes:
        Sides are counted in tokens, so `extent` does not follow the size of a sample: a box of at
        least 140 tokens masks 49 of a sample's 50 tokens. `random_mask`, `random_span_mask` and
        the JEPA strategies, whose options are fractions, do follow it.

        Memory grows with boxes times tokens. For thousands of spans use `span_mask`, whose memory
        grows with the tokens only.

        With `within` and a single real token, the mask is empty.

        `.github/RECIPES.md` has strategies made of boxes: strips of a spectrogram, blocks on a
        foreground, blocks on a sample's own size, compact shapes with an exact count.

    Source:
        This library's own; the block strategies are unions of such boxes.

    Example:
        >>> mask = box_mask(jax.random.key(0), (64, 8), num_boxes=2, extent=(4, None))
        >>> mask.shape, bool((mask.any(1) == mask.all(1)).all())
        ((64, 8), True)
    """
    key, grid = _check.key(key), _check.grid(grid, (1, 2, 3, 4))
    num_boxes = _check.block_count("num_boxes", num_boxes)
    extent = _check_extent(extent, grid)
    centered = _check.choice("placement", placement, "inside", "centered") == "centered"

    @_tracing.jit
    def sample(key: jax.Array, within: Any) -> jax.Array:
        real, rank = _within.real_part(grid, within), len(grid)
        longest = [grid[i] if pair is None else pair[1] for i, pair in enumerate(extent)]
        may_be_full = within is not None or _boxes.can_cover(num_boxes, longest, grid)
        words, last_word = _boxes.words_of_boxes(key, num_boxes, 2 * rank, may_be_full=may_be_full)

        def along(axis: int) -> tuple[jax.Array, jax.Array]:
            """Samples the starts and the sides of all boxes along an axis: int32[num_boxes]."""
            pair, length = extent[axis], real.within[axis]
            side = jnp.minimum(_draws.between(words[axis], *(pair or (length, length))), length)
            if centered and pair is not None:
                return _draws.below(words[rank + axis], length) - side // 2, side
            return _draws.below(words[rank + axis], length - side + 1), side

        starts, sides = zip(*map(along, range(rank)), strict=True)
        mask = jnp.any(_boxes.each_box(starts, sides, grid), axis=0) & real.inside
        return mask if last_word is None else _boxes.leave_one(mask, real, last_word)

    return sample(key, _check.within(within, grid))


def _check_extent(extent: Any, grid: tuple[int, ...]) -> tuple[tuple[int, int] | None, ...]:
    """Returns `(min, max)` of a box's sides along each axis, None for the whole axis."""
    example = ((2, 4),) * len(grid)
    meaning = f"one entry for each axis, {len(grid)} in all, such as {example}"
    if not _check.is_sequence(extent) and getattr(extent, "ndim", 0) != 2:
        raise TypeError(f"extent must have {meaning}, got {_check.brief(extent)}")
    if len(extent) != len(grid):
        raise ValueError(f"extent must have {meaning}, got {_check.brief(extent)}")
    return tuple(
        None if sides is None else _check.one_or_pair(f"extent[{i}]", sides, _check.side)
        for i, sides in enumerate(extent)
    )
