"""Random tokens, an exact number of them."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jepa_masks_jax import _check, _draws, _subsets


def random_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    mask_ratio: float | _check.Range | None = None,
    num_masked: _check.Count | tuple[int, int] | None = None,
    cell: Sequence[int] | None = None,
) -> jax.Array:
    """Draws an exact number of target tokens, uniform without replacement.

    With `cell`, whole cells of the grid are masked, and counts and ratios are of cells: SimMIM's
    squares; `(frames, 1, 1)` masks the same tokens of every frame, `(1, height, width)` whole
    frames.

    Args:
        key: one PRNG key, typed or legacy.
        grid: one to four sides, at least two tokens.
        mask_ratio: fraction of tokens (or cells) in the target, in `(0, 1)`; the count is
            `round(mask_ratio * tokens)` (half to even, as Python rounds), but at least 1 and at
            most `tokens - 1`. Or a pair `(min, max)`: the count is drawn uniformly between the two
            rounded counts.
        num_masked: number of target tokens (or cells), from 1 to one less than all, or an inclusive
            pair `(min, max)` from which it is drawn uniformly. Or an integer array of shape (),
            traced or not, which is clamped into that range. Exactly one of `mask_ratio` and
            `num_masked` is given.
        cell: sides of a cell, which divide the grid's into at least two cells; single tokens if
            None.

    Returns:
        bool[*grid], with exactly the count of targets.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or none of
            `mask_ratio` and `num_masked` are given.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        He et al. (2022), "Masked Autoencoders Are Scalable Vision Learners", section 3.

    Example:
        >>> mask = random_mask(jax.random.key(0), (14, 14), mask_ratio=0.75)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 147)
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(1, 2, 3, 4))
    cell = (1,) * len(grid) if cell is None else _check_cell(cell, grid)
    num_cells = math.prod(grid) // math.prod(cell)
    return _random_mask(key, grid, cell, *_check.exact_count(mask_ratio, num_masked, num_cells))


def random_tube_mask(key: jax.Array, grid: _check.Grid, *, mask_ratio: float) -> jax.Array:
    """Draws one random spatial mask that all frames share.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame's tokens in the target, in `(0, 1)`.

    Returns:
        bool[*grid] with exactly `round(mask_ratio * height * width)` targets in every frame (half
        to even, as Python rounds), but at least 1 and at most `height * width - 1`.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        Tong et al. (2022), "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
        Self-Supervised Video Pre-Training", section 3.2.

    Example:
        >>> mask = random_tube_mask(jax.random.key(0), (8, 14, 14), mask_ratio=0.9)
        >>> mask.shape, int(mask.sum())
        ((8, 14, 14), 1408)
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(3,), whole_frames=True)
    _check.fraction("mask_ratio", mask_ratio)
    return random_mask(key, grid, mask_ratio=mask_ratio, cell=(grid[0], 1, 1))


def object_mask(
    key: jax.Array, num_slots: int, *, num_masked: _check.Count | tuple[int, int] = 2
) -> jax.Array:
    """Draws a uniformly random subset of object slots.

    The slots of a history, `bool[frames, slots]`, have the masked slots hidden in every frame but
    the first: `jnp.broadcast_to(mask, (frames, num_slots)).at[0].set(False)`.

    Args:
        key: one PRNG key, typed or legacy.
        num_slots: number of slots, from 2 to 2**24.
        num_masked: number of masked slots, or an inclusive pair `(min, max)` from which it is drawn
            uniformly, from 1 to `num_slots - 1`. Or an integer array of shape (), traced or not,
            which is clamped into that range.

    Returns:
        bool[num_slots], True at the masked slots.

    Raises:
        TypeError: if `key` is not a key or a number is not an integer.
        ValueError: if `key` is a batch of keys or a number is out of its range.

    Source:
        C-JEPA, github.com/galilai-group/cjepa.

    Example:
        >>> mask = object_mask(jax.random.key(0), 7, num_masked=2)
        >>> mask.shape, int(mask.sum())
        ((7,), 2)
    """
    key, num_slots = _check.key(key), _check.count("num_slots", num_slots, 2, _check.MAX_TOKENS)
    if num_masked is None:
        raise TypeError("num_masked must be an integer or a pair (min, max), got None")
    return random_mask(key, (num_slots,), num_masked=num_masked)


def _check_cell(cell: Any, grid: tuple[int, ...]) -> tuple[int, ...]:
    meaning = f"{len(grid)} sides that divide those of the grid {grid} into at least two cells"
    sides = _check.sequence("cell", cell, (len(grid),), meaning)
    sides = tuple(_check.count(f"cell[{i}]", side) for i, side in enumerate(sides))
    if any(side % part for side, part in zip(grid, sides, strict=True)) or sides == grid:
        raise ValueError(f"cell must be {meaning}, got {cell!r}")
    return sides


@functools.partial(jax.jit, static_argnums=(1, 2, 4))
def _random_mask(
    key: jax.Array,
    grid: tuple[int, ...],
    cell: tuple[int, ...],
    num_masked: jax.Array | None,
    count_range: tuple[int, int],
) -> jax.Array:
    cells = tuple(side // part for side, part in zip(grid, cell, strict=True))
    num_cells = math.prod(cells)
    draws = _draws.random_draws(key, num_cells + 1)
    count = _subsets.clamp_or_draw_count(draws[-1], num_masked, count_range)
    pool = jnp.ones(num_cells, bool)
    mask = _subsets.random_subset(draws[:-1], pool, count).reshape(cells)
    for axis, part in enumerate(cell):
        mask = jnp.repeat(mask, part, axis)
    return mask
