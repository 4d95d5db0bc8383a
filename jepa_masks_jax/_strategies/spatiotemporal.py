"""Squares over a run of frames: `SpatiotemporalMasking` of jepa-rs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _boxes, _check, _draws, _grids, _sizes, _tracing, _within
from jepa_masks_jax._draws import Uniform


def spatiotemporal_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_targets: int = 2,
    temporal_extent: tuple[int, int] = (2, 4),
    spatial_scale: _check.Range = (0.1, 0.2),
) -> jax.Array:
    """Samples tubes, each a square over a run of frames; a port of jepa-rs.

    For V-JEPA's own masks use `vjepa_mask`.

    On a video of `T` frames of `H` by `W` tokens, each of the `num_targets` tubes samples a scale
    `s` from `spatial_scale`:

    1. It lasts a whole number of frames, uniform in `temporal_extent` and cut to `T`.
    2. Its square has a side of `round(sqrt(round(H * W * s)))` tokens, cut to each side of the
       frame. `round` is half away from zero.
    3. It is placed uniformly over every position that keeps it inside.

    The mask is the union of the tubes. If they cover the whole grid, one random token is left
    unmasked.

    Args:
        key: a single PRNG key.
        grid: `(frames, height, width)`, or `(height, width)` for a single frame; at least two
            tokens.
        num_targets: count of tubes, from 1 to 2**16; they may overlap.
        temporal_extent: inclusive `(min, max)` of a tube's frames, whole numbers with
            `1 <= min <= max <= 2**24`.
        spatial_scale: `(min, max)` of the fraction of a frame in each tube's square,
            `0 < min <= max <= 1`.

    Returns:
        bool[*grid], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if an option is out of its range.

    Source:
        `SpatiotemporalMasking` of the Rust crate jepa-core, after Bardes et al. (2024),
        "Revisiting Feature Prediction for Learning Visual Representations from Video".

    Example:
        >>> mask = spatiotemporal_mask(jax.random.key(0), (8, 14, 14))
        >>> mask.shape, mask.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid)
    num_targets = _check.block_count("num_targets", num_targets)
    extent = _check.count_range("temporal_extent", temporal_extent, _check.MAX_TOKENS)
    scale = _check.real_range("spatial_scale", spatial_scale)
    counts = _within.plan_for(_plan_counts, math.prod(grid[-2:]), scale)
    widest = _sizes.rounded_sqrt(4 * counts.whole[1])
    largest = (extent[1], widest, widest)
    may_be_full = _boxes.can_cover(num_targets, largest, _grids.as_frames(grid))
    plan = _Plan(num_targets, extent, counts, may_be_full)
    return _spatiotemporal_mask(key, grid, plan)


def _plan_counts(tokens: np.ndarray, scale: tuple[float, float]) -> Uniform:
    low, high = scale
    return _draws.whole_uniform(tokens * low + 0.5, tokens * high + 0.5)


class _Plan(NamedTuple):
    num_targets: int
    temporal_extent: tuple[int, int]
    counts: Uniform
    may_be_full: bool


@_tracing.jit
def _spatiotemporal_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    video = _within.true_part(_grids.as_frames(grid), None)
    words, last_word = _boxes.words_of_boxes(key, plan.num_targets, 5, plan.may_be_full)
    frames = _draws.between(words[0], *plan.temporal_extent)
    side = _sizes.traced_rounded_sqrt(4 * plan.counts.sample_whole(words[1]), jnp.int32(1))
    sides = frames, side, side
    mask = jnp.any(_boxes.place_each(words[2:], sides, video.sides, video.grid), axis=0)
    if plan.may_be_full:
        mask = _boxes.leave_one(mask, video, last_word)
    return mask.reshape(grid)
