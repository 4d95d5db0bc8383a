"""One visible block, everything else masked: the masks of CAPI."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _counts, _draws, _sizes, _tracing
from jepa_masks_jax._check import Grid, Int, Range, Real


def inverse_block_mask(
    key: jax.Array,
    grid: Grid,
    *,
    mask_ratio: Real | None = None,
    num_masked: Int | None = None,
    aspect_ratio: Range = (0.5, 2.0),
    roll: bool = True,
) -> jax.Array:
    """Samples one block of visible tokens and masks everything else, as CAPI does.

    On `H` by `W` tokens, with `v` visible ones:

    1. Sample an aspect ratio `a`, log-uniform over the part of `aspect_ratio` with which the block
       fits: `max(min, v / W**2) <= a <= min(max, H**2 / v)`.
    2. The block is `ceil(sqrt(v * a))` tokens high and `ceil(sqrt(v / a))` wide. Its first `v`
       tokens in row-major order are visible.
    3. Place it uniformly: with `roll` over the grid with wrap-around, so that every token is
       equally likely to be visible; otherwise over every position that keeps it inside.

        roll=True       roll=False
        ..####..        ########        #  target
        ..####..        #....###        .  visible
        ########        #....###
        ########        ########

    Args:
        key: a single PRNG key.
        grid: `(height, width)`, at least two tokens.
        mask_ratio: fraction of the tokens to mask, in `(0, 1)`; the count is
            `round(mask_ratio * tokens)` (half to even), but at least 1 and at most `tokens - 1`.
        num_masked: count of tokens to mask, from 1 to `tokens - 1`. Exactly one of `mask_ratio` and
            `num_masked` is given.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.
        roll: whether the block is placed with wrap-around.

    Returns:
        bool[*grid] with exactly the requested count of True tokens.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or neither of
            `mask_ratio` and `num_masked` are given.
        ValueError: if an option is out of its range, or if no block of that aspect ratio fits.

    Notes:
        Aspect ratios are sampled from 1,024 equally likely values.

    Source:
        Darcet et al. (2025), "Cluster and Predict Latent Patches for Improved Masked Image
        Modeling"; `data.py` of github.com/facebookresearch/capi.

    Example:
        >>> mask = inverse_block_mask(jax.random.key(0), (14, 14), mask_ratio=0.65)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 127)
    """
    key, grid = _check.key(key), _check.grid(grid, (2,))
    tokens = math.prod(grid)
    if mask_ratio is not None:
        mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    if num_masked is not None:
        num_masked = _check.integer("num_masked", num_masked, 1, tokens - 1)
    masked = _counts.masked(mask_ratio, num_masked, tokens)
    count = int(_counts.masked_range(tokens, masked)[0])
    low, high = _check.pair("aspect_ratio", aspect_ratio, _check.positive)
    roll = _check.flag("roll", roll)
    visible, (height, width) = tokens - count, grid
    lowest_fit, highest_fit = visible / width**2, height**2 / visible
    lowest, highest = max(low, lowest_fit), min(high, highest_fit)
    if lowest > highest:
        raise ValueError(
            f"aspect_ratio must allow a block of {visible} visible tokens that fits in the grid "
            f"{grid}, from {lowest_fit:g} to {highest_fit:g}; got {low:g} to {high:g}"
        )

    @_tracing.jit
    def sample(key: jax.Array) -> jax.Array:
        words = _draws.random_words(key, 3)
        sides = _draws.entries(words[0], _side_table(grid, visible, (lowest, highest)))

        def from_start(axis: int) -> jax.Array:
            """Counts the tokens from a uniform start, with wrap-around: int32[*grid]."""
            length = grid[axis]
            start = _draws.below(words[1 + axis], length if roll else length - sides[axis] + 1)
            at = lax.broadcasted_iota(jnp.int32, grid, axis)
            return lax.rem(at - start + length, jnp.int32(length))

        row, column, block_width = from_start(0), from_start(1), sides[1]
        return ~((column < block_width) & (row * block_width + column < visible))

    return sample(key)


def _side_table(
    grid: tuple[int, ...], visible: int, aspect_ratio: tuple[float, float]
) -> np.ndarray:
    """Returns the equally likely heights and widths of the block: int32[n, 2]."""
    aspect = _sizes.log_uniform(*aspect_ratio)[:, None]
    sides = np.sqrt(visible * np.hstack([aspect, 1 / aspect]))
    # A root that is the whole side can come out above it in floating point.
    return np.minimum(np.ceil(sides), grid).astype(np.int32)
