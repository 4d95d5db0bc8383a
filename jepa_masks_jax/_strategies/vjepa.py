"""V-JEPA's blocks in space and time."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _grids, _sizes

_PLACEMENTS = 4
"""Drawn where one may leave no context."""


def vjepa_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_blocks: int = 8,
    spatial_scale: _check.Range = (0.15, 0.15),
    temporal_scale: _check.Range = (1.0, 1.0),
    aspect_ratio: _check.Range = _sizes.JEPA_ASPECT_RATIO,
    max_temporal_keep: float = 1.0,
) -> jax.Array:
    """Draws V-JEPA's target: the union of blocks in space and time that share one size.

    A block lasts `max(1, floor(frames * t))` frames, with `t` from `temporal_scale`. With
    `n = floor(height * width * s)`, `s` from `spatial_scale`, and an aspect ratio `a` it is
    `round(sqrt(n * a))` tokens high and `round(sqrt(n / a))` wide (half to even), clamped to the
    grid. On a sequence it is `max(1, floor(length * s))` tokens long. The blocks of one mask share
    the size and have independent, uniform corners. Every token
    at or after frame `max(1, floor(frames * max_temporal_keep))` is a target too.

    Where the blocks leave no context, the corners are drawn again, at most three times; if all four
    leave none, one uniformly random token of the frames that may be context is left out.

    V-JEPA trains on two masks of each clip, `presets.vjepa_short_range` and
    `presets.vjepa_long_range`. The options of V-JEPA 2's collator are compositions, with
    `target = vjepa_mask(key, grid)`:

    - `max_keep`, the most context tokens: `context = clip_count(key2, ~target, maximum=max_keep)`;
    - `full_complement`, the target is all that is not context: `target = ~context`;
    - `pred_full_complement`, the context is all that is not target: `context = ~target`;
    - `inv_block`, the blocks are the context: `context, target = target, ~target`.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(frames, height, width)`, or `(height, width)` or `(length,)` for a single frame; at
            least two tokens. A video or an image grid is refused as too thin where the largest
            block that the options reach, clamped to the frame, has fewer than 0.4 of the least `n`.
        num_blocks: number of blocks, from 1 to 2**16; they may overlap.
        spatial_scale: `(min, max)` of the fraction of a frame in each block,
            `0 < min <= max <= 1`.
        temporal_scale: `(min, max)` of the fraction of the frames in each block,
            `0 < min <= max <= 1`.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. For blocks of up
            to `n` tokens, `n * max(1, max, max / min) / min(1, min)` can be up to about 2**23. On a
            sequence it has no meaning and must be the default.
        max_temporal_keep: fraction of the frames, from the first, that may be context, in `(0, 1]`.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if `key` is a batch of keys, an option is out of its range, or the grid is too
            thin.

    Source:
        Bardes et al. (2024), "Revisiting Feature Prediction for Learning Visual Representations
        from Video", section 3; `src/masks/multiblock3d.py` of github.com/facebookresearch/jepa and
        of github.com/facebookresearch/vjepa2.

    Example:
        >>> target = vjepa_mask(jax.random.key(0), (8, 14, 14))
        >>> target.shape, target.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(1, 2, 3))
    num_blocks = _check.block_count("num_blocks", num_blocks)
    low, high = _check.real_range("spatial_scale", spatial_scale)
    shortest, longest = _check.real_range("temporal_scale", temporal_scale)
    ratio = _check.real_range("aspect_ratio", aspect_ratio, high=None)
    max_temporal_keep = _check.fraction("max_temporal_keep", max_temporal_keep, one=True)
    frames, *frame = _grids.as_frames(grid)
    tokens = math.prod(frame)
    counts = _sizes.whole_steps(tokens * low, tokens * high)
    sizes = _sizes.jepa_sizes("aspect_ratio", counts, ratio, len(frame))
    _sizes.refuse_thin_grid(grid, frame, sizes, "spatial_scale", "aspect_ratio")
    plan = _Plan(
        num_blocks=num_blocks,
        sizes=sizes,
        extents=_sizes.whole_steps(frames * shortest, frames * longest),
        keep=max(1, math.floor(frames * max_temporal_keep)),
    )
    return _vjepa_mask(key, grid, plan)


class _Plan(NamedTuple):
    num_blocks: int
    sizes: _sizes.JepaSizes
    extents: _sizes.Steps
    keep: int
    """Frames that may be context, from the first."""


@functools.partial(jax.jit, static_argnums=(1, 2))
def _vjepa_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    frames, *frame = _grids.as_frames(grid)
    shortest, longest = _sizes.least_and_most(plan.extents)
    may_be_full = any(
        _boxes.can_cover(plan.num_blocks, (longest, *size), (plan.keep, *frame))
        for size in plan.sizes.widest
    )
    # Where every block lasts all frames, one frame is drawn and repeated.
    is_frame = max(shortest, 1) >= frames
    room, kept = (frame, frame) if is_frame else ((frames, *frame), (plan.keep, *frame))

    corners_shape = (_PLACEMENTS if may_be_full else 1, plan.num_blocks, len(room))
    num_corner_draws = math.prod(corners_shape)
    draws = _draws.random_draws(key, 3 + num_corner_draws + may_be_full)
    extent_draw, count_draw, aspect_draw = draws[:3]
    corner_draws = draws[3 : 3 + num_corner_draws].reshape(corners_shape)

    frame_size = _sizes.draw_jepa_size(count_draw, aspect_draw, plan.sizes)
    extent = () if is_frame else (_sizes.draw_whole(extent_draw, plan.extents),)
    size = _boxes.clamp((*extent, *frame_size), room)
    start = _boxes.place(jnp.moveaxis(corner_draws, -1, 0), size, room)
    covers = jax.vmap(lambda *start: jnp.all(_boxes.union(start, size, kept)))(*start)
    chosen = lax.argmin(covers, 0, jnp.int32)  # the first that leaves a context, if one does
    target = _boxes.union([part[chosen] for part in start], size, kept)
    target = jnp.broadcast_to(target, (plan.keep, *frame))
    if may_be_full:
        target = _boxes.leave_one(target, jnp.all(covers), draws[-1])
    late = jnp.ones((frames - plan.keep, *frame), bool)
    return jnp.concatenate([target, late]).reshape(grid)
