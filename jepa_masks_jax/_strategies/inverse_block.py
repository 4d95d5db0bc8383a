"""One visible block, everything else masked: the masks of CAPI."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _sizes


def inverse_block_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    mask_ratio: float | None = None,
    num_masked: int | None = None,
    aspect_ratio: _check.Range = (0.5, 2.0),
    roll: bool = True,
) -> jax.Array:
    """Draws a target that is everything outside one block of visible tokens.

    With `v` visible tokens and an aspect ratio `a` the block is `ceil(sqrt(v * a))` tokens high and
    `ceil(sqrt(v / a))` wide, and of its tokens the first `v` in row-major order are visible. `a` is
    log-uniform over the part of `aspect_ratio` with which the block fits in the grid, one of
    1,024 equally likely values. With `roll` the grid is shifted cyclically, so the block may reach
    over the edges, and every token is equally likely to be visible.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)`, at least two tokens.
        mask_ratio: fraction of the tokens in the target, in `(0, 1)`; the count is
            `round(mask_ratio * tokens)`, but at least 1 and at most `tokens - 1`.
        num_masked: number of targets, from 1 to `tokens - 1`. Exactly one of `mask_ratio` and
            `num_masked` is given.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.
        roll: whether the block is placed uniformly over the grid as if its edges met. If not, its
            corner is uniform over every position that keeps it inside.

    Returns:
        bool[*grid] with exactly the count of targets.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or none of
            `mask_ratio` and `num_masked` are given.
        ValueError: if `key` is a batch of keys, an option is out of its range, or no block of that
            aspect ratio fits in the grid.

    Source:
        Darcet et al. (2025), "Cluster and Predict Latent Patches for Improved Masked Image
        Modeling"; `data.py` of github.com/facebookresearch/capi.

    Example:
        >>> mask = inverse_block_mask(jax.random.key(0), (14, 14), mask_ratio=0.65)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 127)
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(2,))
    tokens = math.prod(grid)
    if mask_ratio is not None:
        mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    if num_masked is not None:
        num_masked = _check.count("num_masked", num_masked, 1, tokens - 1)
    _, (count, _) = _check.exact_count(mask_ratio, num_masked, tokens)
    low, high = _check.real_range("aspect_ratio", aspect_ratio, high=None)
    roll = _check.flag("roll", roll)
    visible, (height, width) = tokens - count, grid
    lowest, highest = max(low, visible / width**2), min(high, height**2 / visible)
    if lowest > highest:
        raise ValueError(
            f"aspect_ratio must allow a block of {visible} visible tokens that fits in the grid "
            f"{grid}, from {visible / width**2:g} to {height**2 / visible:g}; got {aspect_ratio!r}"
        )
    return _inverse_block_mask(key, grid, _Plan(visible, (lowest, highest), roll))


class _Plan(NamedTuple):
    visible: int
    aspect_ratio: tuple[float, float]
    """With which the block fits."""
    roll: bool


def _block_sizes(grid: tuple[int, int], plan: _Plan) -> np.ndarray:
    """Returns the equally likely heights and widths of the block: int32[n, 2]."""
    aspect = _sizes.log_uniform(*plan.aspect_ratio)[:, None]
    sides = np.sqrt(plan.visible * np.hstack([aspect, 1 / aspect]))
    # A root that is the whole side can come out above it in floating point.
    return np.minimum(np.ceil(sides), grid).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _inverse_block_mask(key: jax.Array, grid: tuple[int, int], plan: _Plan) -> jax.Array:
    size_draw, *corner_draws = _draws.random_draws(key, 3)
    size = [_draws.entry_of(size_draw, sides) for sides in _block_sizes(grid, plan).T]
    height, width = size
    corner = _boxes.place(corner_draws, (1, 1) if plan.roll else size, grid)
    row, column = (
        lax.rem(lax.broadcasted_iota(jnp.int32, grid, axis) - start + side, jnp.int32(side))
        for axis, (start, side) in enumerate(zip(corner, grid, strict=True))
    )
    in_block = (row < height) & (column < width)
    return ~(in_block & (row * width + column < plan.visible))
