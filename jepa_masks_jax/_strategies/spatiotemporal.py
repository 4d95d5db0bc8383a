"""Squares over a run of frames: `SpatiotemporalMasking` of jepa-rs."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa_masks_jax import _boxes, _check, _draws, _grids, _sizes


def spatiotemporal_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_targets: int = 2,
    temporal_extent: tuple[int, int] = (2, 4),
    spatial_scale: _check.Range = (0.1, 0.2),
) -> jax.Array:
    """Draws a target of tubes, each a square over a run of frames.

    A tube lasts a whole number of frames drawn from `temporal_extent`, then clamped to the grid's.
    Its square has a side of `round(sqrt(round(height * width * scale)))` tokens, clamped to each
    side of the grid (`round` is half away from zero). Its corner is uniform over every position
    that keeps it inside. On a thin grid a clamped square holds fewer tokens than its scale says.
    If the tubes cover the whole grid, one uniformly random token is left out.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(frames, height, width)`, or `(height, width)` for a single frame; at least two
            tokens.
        num_targets: number of tubes, from 1 to 2**16; they may overlap.
        temporal_extent: inclusive `(min, max)` of a tube's frames, whole numbers with
            `1 <= min <= max <= 2**24`.
        spatial_scale: `(min, max)` of the fraction of a frame in each tube's square,
            `0 < min <= max <= 1`.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        `SpatiotemporalMasking` of the Rust module jepa-core, after Bardes et al. (2024),
        "Revisiting Feature Prediction for Learning Visual Representations from Video". For V-JEPA's
        own masks use `vjepa_mask`.

    Example:
        >>> mask = spatiotemporal_mask(jax.random.key(0), (8, 14, 14))
        >>> mask.shape, mask.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid)
    num_targets = _check.block_count("num_targets", num_targets)
    extent = _check.count_range("temporal_extent", temporal_extent, _check.MAX_TOKENS)
    low, high = _check.real_range("spatial_scale", spatial_scale)
    tokens = math.prod(grid[-2:])
    counts = _sizes.whole_steps(tokens * low + 0.5, tokens * high + 0.5)
    return _spatiotemporal_mask(key, grid, _Plan(num_targets, extent, counts))


class _Plan(NamedTuple):
    num_targets: int
    temporal_extent: tuple[int, int]
    counts: _sizes.Steps


@functools.partial(jax.jit, static_argnums=(1, 2))
def _spatiotemporal_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    _, longest = plan.temporal_extent
    _, most = _sizes.least_and_most(plan.counts)
    widest = _sizes.rounded_sqrt(4 * most)

    def draw_size(extent_draws: jax.Array, count_draws: jax.Array) -> tuple[jax.Array, ...]:
        frames = _draws.whole_between(extent_draws, *plan.temporal_extent)
        side = _sizes.traced_rounded_sqrt(
            4 * _sizes.draw_whole(count_draws, plan.counts), jnp.int32(1)
        )
        return frames, side, side

    mask = _boxes.random_union(
        key,
        _grids.as_frames(grid),
        draw_size,
        num_boxes=plan.num_targets,
        size_draws=2,
        largest=(longest, widest, widest),
    )
    return mask.reshape(grid)
