"""V-JEPA's blocks in space and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _sizes, _tracing, _within
from jepa_masks_jax._check import Grid, Int, Range, Real, Within
from jepa_masks_jax._within import RealPart

_PLACEMENTS = 4
"""The blocks are placed so many times if one placement may leave no context."""

_ALL_FRAMES = (1.0, 1.0)


def vjepa_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_blocks: Int = 8,
    spatial_scale: Range = (0.15, 0.15),
    temporal_scale: Range = _ALL_FRAMES,
    aspect_ratio: Range = _sizes.JEPA_ASPECT_RATIO,
    max_temporal_keep: Real = 1.0,
    within: Within | None = None,
) -> jax.Array:
    """Samples one of V-JEPA's two targets: a union of equally sized blocks in space and time.

        ####..  ####..      #  target
        ####..  ####..      .  context
        ..##..  ..##..      (two frames of 4x6 tokens, num_blocks=2)
        ..##..  ..##..

    On a video of `T` frames of `H` by `W` tokens:

    1. Sample one size for all blocks. With `t` from `temporal_scale` a block lasts
       `max(1, floor(T * t))` frames. With a scale `s` from `spatial_scale`, an aspect ratio `a`
       from `aspect_ratio` and `n = floor(H * W * s)`, it is `round(sqrt(n * a))` tokens high and
       `round(sqrt(n / a))` wide (half to even).
    2. Place each block uniformly over every position that keeps it inside. Blocks may overlap.
    3. The target is their union, and every token at or after frame
       `max(1, floor(T * max_temporal_keep))`.
    4. If the blocks leave no context, place them again, at most three times. If all four attempts
       leave none, one random token of the frames that can be context becomes the context.

    A side that does not fit is cut to the frame. If `H` and `W` differ, the block then keeps its
    area: the other side becomes `round(n / cut_side)` (half up). On a sequence a block is
    `max(1, floor(length * s))` tokens long.

    V-JEPA trains on two masks of each clip, `presets.vjepa_short_range` and
    `presets.vjepa_long_range`. The options of V-JEPA 2's collator are one line each, with
    `target = vjepa_mask(key, grid)`:

    - `max_keep`: `context = clip_count(key2, ~target, maximum=max_keep)`;
    - `full_complement`: `target = ~context`;
    - `pred_full_complement`: `context = ~target`;
    - `inv_block`: `context, target = target, ~target`.

    Args:
        key: a single PRNG key.
        grid: `(frames, height, width)`, or `(height, width)` or `(length,)` for a single frame; at
            least two tokens.
        num_blocks: count of blocks, from 1 to 2**16.
        spatial_scale: `(min, max)` of the fraction of a frame in each block,
            `0 < min <= max <= 1`.
        temporal_scale: `(min, max)` of the fraction of the frames in each block,
            `0 < min <= max <= 1`. On an image or a sequence it must be the default.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. On a sequence it must be
            the default.
        max_temporal_keep: only the first `max_temporal_keep` of the frames can be context, in
            `(0, 1]`; later frames are targets. On an image or a sequence it must be the default.
        within: the real sides of a sample that is smaller than the grid, such as `(5, 9, 12)` for a
            shorter clip of smaller frames: ints, or an integer array of shape `(rank,)`, traced or
            not, clamped into `[1, side]`. The mask is the one that `grid=within` gives with the
            same key, False outside, and the context is `inside(grid, within) & ~mask`.

    Returns:
        bool[*grid], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if an option is out of its range, or if `within` is given with a
            `temporal_scale` other than `(1, 1)`.

    Notes:
        On a square frame a side is cut without extending the other, as in the released code.

        A sample of one real token has an empty target.

        The pair for clips of several lengths is a recipe in `.github/RECIPES.md`.

    Source:
        Bardes et al. (2024), "Revisiting Feature Prediction for Learning Visual Representations
        from Video", section 3; `src/masks/multiblock3d.py` of github.com/facebookresearch/jepa and
        of github.com/facebookresearch/vjepa2.

    Example:
        >>> target = vjepa_mask(jax.random.key(0), (8, 14, 14))
        >>> target.shape, target.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, (1, 2, 3))
    num_blocks = _check.block_count("num_blocks", num_blocks)
    scale = _check.pair("spatial_scale", spatial_scale, _check.scale)
    times = _check.pair("temporal_scale", temporal_scale, _check.scale)
    aspect = _sizes.check_aspect_ratio("aspect_ratio", aspect_ratio, len(grid))
    keep = _check.scale("max_temporal_keep", max_temporal_keep)
    within = _check.within(within, grid)
    _check_time(grid, times, keep, within)

    @_tracing.jit
    def sample(key: jax.Array, within: Any) -> jax.Array:
        def plan_blocks(tokens: np.ndarray) -> _sizes.JepaBlocks:
            return _sizes.jepa_blocks(tokens, "aspect_ratio", scale, aspect)

        def plan_time(frames: np.ndarray) -> tuple[_draws.Uniform, Any]:
            """Plans the frames of a block, and the frames that can be context, from the first."""
            lengths = _draws.uniform(*(frames * time for time in times))
            return lengths, np.maximum(np.floor(frames * keep), 1)

        real = _within.real_part(grid, within)
        frame = real.last_axes(2)
        blocks = _tracing.planned(plan_blocks, frame.tokens, largest=math.prod(frame.grid))
        can_be_context, lengths = real, None
        if len(grid) == 3:
            lengths, open_frames = _tracing.planned(plan_time, real.within[0], largest=grid[0])
            can_be_context = RealPart(grid, (open_frames, *frame.within))
            if within is not None or max(lengths.floors[0], 1) >= grid[0]:
                lengths = None  # Every block lasts all frames.

        # Blocks that last all frames are placed in one frame, which is then repeated.
        room = frame if lengths is None else real
        context_room = can_be_context.last_axes(len(room.grid))
        longest = () if lengths is None else (lengths.floors[1],)
        # Sides that are traced, as `within` is, tell nothing: then the room may be full.
        may_be_full = within is not None or any(
            _boxes.can_cover(num_blocks, (*longest, *sides), context_room.within)
            for sides in _sizes.all_sides(blocks.counts.floors[1], blocks.aspects, frame.grid)
        )
        corner_shape = _PLACEMENTS if may_be_full else 1, num_blocks, len(room.grid)
        words = _draws.random_words(key, 3 + math.prod(corner_shape) + 1)
        length_word, count_word, aspect_word = words[:3]
        sides = _sizes.sample_jepa_sides(count_word, aspect_word, blocks, frame.within)
        if lengths is not None:
            sides = lengths.sample_floor(length_word), *sides
        target = _place(words[3:-1].reshape(corner_shape), sides, room, context_room)
        target = jnp.broadcast_to(target, grid)
        if may_be_full:
            target = _boxes.leave_one(target, can_be_context, words[-1])
        return (target | ~can_be_context.inside) & real.inside

    return sample(key, within)


def _check_time(
    grid: tuple[int, ...], times: tuple[float, float], keep: float, within: Any
) -> None:
    """Refuses options of frames where there are none, or of which samples have their own count."""
    if len(grid) < 3:
        _check.refuse_unless_default("temporal_scale", times, _ALL_FRAMES, "without frames")
        _check.refuse_unless_default("max_temporal_keep", keep, 1.0, "without frames")
    if within is not None and times != _ALL_FRAMES:
        raise ValueError(f"within needs temporal_scale={_ALL_FRAMES}, got {times}")


def _place(
    corner_words: jax.Array, sides: Sequence[Any], room: RealPart, context_room: RealPart
) -> jax.Array:
    """Unites the blocks of the first placement that leaves a context, or of the first of all.

    Args:
        corner_words: uint32[placements, num_blocks, rank].
        sides: int32[] for each axis of the room.
        room: where the blocks are placed.
        context_room: the part of it that can be context.

    Returns:
        bool[*room.grid].
    """
    placed = _boxes.place_each(jnp.moveaxis(corner_words, -1, 0), sides, room.within, room.grid)
    unions = jnp.any(placed, axis=1)
    is_full = jnp.all(unions | ~context_room.inside[None], axis=range(1, unions.ndim))
    return unions[lax.argmin(is_full, 0, jnp.int32)]
