"""Squares over a run of frames: `SpatiotemporalMasking` of jepa-rs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _boxes, _check, _draws, _grids, _sizes, _tracing
from jepa_masks_jax._check import Grid, Int, IntRange, Range
from jepa_masks_jax._draws import Uniform


def spatiotemporal_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: Int = 2,
    temporal_extent: IntRange = (2, 4),
    spatial_scale: Range = (0.1, 0.2),
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
    key, grid = _check.key(key), _check.grid(grid, (2, 3))
    num_targets = _check.block_count("num_targets", num_targets)
    extent = _check.pair("temporal_extent", temporal_extent, _check.side)
    scale = _check.pair("spatial_scale", spatial_scale, _check.scale)
    video = _grids.as_video(grid)

    @_tracing.jit
    def sample(key: jax.Array) -> jax.Array:
        def plan(tokens: np.ndarray) -> Uniform:
            return _draws.uniform(*(tokens * end + 0.5 for end in scale))

        counts = _tracing.planned(plan, math.prod(grid[-2:]))
        widest = _sizes.rounded_sqrt(4 * counts.floors[1])
        may_be_full = _boxes.can_cover(num_targets, (extent[1], widest, widest), video)
        words, last_word = _boxes.words_of_boxes(key, num_targets, 5, may_be_full=may_be_full)
        side = _sizes.traced_rounded_sqrt(4 * counts.sample_floor(words[1]), jnp.int32(1))
        sides = _draws.between(words[0], *extent), side, side
        return _boxes.union(words[2:], sides, video, last_word).reshape(grid)

    return sample(key)
