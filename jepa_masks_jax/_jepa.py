"""The block masks of I-JEPA, V-JEPA and V-JEPA 2."""

import bisect
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax._bits import below, count_set, first_set, random_words, unpack
from jepa_masks_jax._boxes import box, can_cover, clamp, full, is_full, leave_one, place, union
from jepa_masks_jax._checks import (
    Grid,
    Range,
    check_count,
    check_fraction,
    check_grid,
    check_key,
    check_range,
)
from jepa_masks_jax._sizes import (
    BlockSizes,
    Uniform,
    block_sizes,
    draw_block,
    draw_floor,
    draw_square_side,
    floor_uniform,
    square_sides,
)

_REDRAWS = 3


class ContextTargetMasks(NamedTuple):
    """What the context encoder sees, and each block to predict."""

    context: jax.Array
    """bool[*grid]"""
    targets: jax.Array
    """bool[num_targets, *grid]"""


def ijepa_masks(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect_ratio: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    min_keep: int = 10,
    allow_overlap: bool = False,
    sampling: Literal["paper", "reference"] = "paper",
) -> ContextTargetMasks:
    """Draws I-JEPA's context and its separate target blocks.

    A block of scale `s` and aspect `a` has `n = floor(height * width * s)` and is
    `round(sqrt(n * a))` tokens high and `round(sqrt(n / a))` wide (half to even), clamped to the
    grid. The targets of one mask share one size and have independent corners. The context is one
    block of aspect 1 without the tokens of any target. A context of fewer than `min_keep` tokens
    is topped up from the free tokens, outside it and every target: a uniformly random one and
    those that follow it in raster order, cyclically. Every free token is equally likely.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)`, at least two tokens.
        num_targets: number of target blocks, at least 1; they may overlap each other.
        target_scale: `(min, max)` of the fraction of the grid in each target,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.
        context_scale: `(min, max)` of the fraction of the grid in the context block,
            `0 < min <= max <= 1`.
        min_keep: least number of context tokens, at least 1.
        allow_overlap: leaves the targets' tokens in the context.
        sampling: `"paper"` draws scale and aspect independently, and blocks reach every token.
            `"reference"` does what the released code does before it truncates, wherever that would
            not draw again: one number draws both scale and aspect, blocks are strictly smaller
            than the grid and never touch its last row and column. There a batch shares one size,
            here each mask has its own.

    Returns:
        ContextTargetMasks: `context` bool[*grid] with at least `min_keep` tokens, and `targets`
        bool[num_targets, *grid], none empty. Unless `allow_overlap`, no token is in both.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if `key` is a batch of keys, an option is out of its range, or the options
            cannot guarantee `min_keep`; the message then says what to lower, and to what.

    Source:
        Assran et al. (2023), "Self-Supervised Learning from Images with a Joint-Embedding
        Predictive Architecture", section 3; `src/masks/multiblock.py` of
        github.com/facebookresearch/ijepa.

    Example:
        >>> context, targets = ijepa_masks(jax.random.key(0), (14, 14))
        >>> context.shape, targets.shape
        ((14, 14), (4, 14, 14))
        >>> bool((context & targets.any(0)).any())
        False
    """
    key, grid = check_key(key), check_grid(grid, ranks=(2,))
    num_targets = check_count("num_targets", num_targets)
    low, high = check_range("target_scale", target_scale)
    aspect_ratio = check_range("target_aspect_ratio", target_aspect_ratio, high=None)
    context_low, context_high = check_range("context_scale", context_scale)
    min_keep = check_count("min_keep", min_keep)
    if not isinstance(allow_overlap, bool):
        raise TypeError(f"allow_overlap must be True or False, got {allow_overlap!r}")
    if sampling not in ("paper", "reference"):
        raise ValueError(f"sampling must be 'paper' or 'reference', got {sampling!r}")
    shared_draw = sampling == "reference"
    if shared_draw and min(grid) < 2:
        raise ValueError(f"grid must be at least 2 along each side for the reference, got {grid}")

    tokens = math.prod(grid)
    room = (grid[0] - shared_draw, grid[1] - shared_draw)
    target = block_sizes(
        "target_aspect_ratio",
        floor_uniform(tokens * low, tokens * high),
        aspect_ratio,
        half_even=True,
    )
    context = floor_uniform(tokens * context_low, tokens * context_high)
    if allow_overlap:
        _check_context_block(context, room, min_keep)
    else:
        _check_room_left(tokens, room, num_targets, target, aspect_ratio, min_keep)
    return _ijepa_masks(
        key,
        grid,
        room,
        num_targets,
        target,
        context,
        None if allow_overlap else min_keep,
        shared_draw,
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6, 7))
def _ijepa_masks(
    key: jax.Array,
    grid: tuple[int, int],
    room: tuple[int, int],
    num_targets: int,
    target: BlockSizes,
    context: Uniform,
    min_keep: int | None,
    shared_draw: bool,
) -> ContextTargetMasks:
    num_blocks = num_targets + 1
    bits = random_words(key, 4 + 2 * num_blocks)
    count_bits, aspect_bits, context_bits, top_up_bits = bits[:4]
    corner_bits = bits[4:].reshape(num_blocks, 2)

    size = clamp(draw_block(count_bits, count_bits if shared_draw else aspect_bits, target), room)
    side = draw_square_side(context_bits, context)

    def block(bits: jax.Array, size: tuple[jax.Array, ...]) -> jax.Array:
        return box(place(list(bits), size, room), size, grid)

    targets = jax.vmap(block, in_axes=(0, None))(corner_bits[:-1], size)
    visible = block(corner_bits[-1], clamp((side, side), room))
    if min_keep is not None:
        hidden = union(targets)
        visible = _top_up(visible & ~hidden, hidden, min_keep, top_up_bits, grid[-1])
    return ContextTargetMasks(unpack(visible, grid[-1]), unpack(targets, grid[-1]))


def _top_up(
    visible: jax.Array, hidden: jax.Array, min_keep: int, bits: jax.Array, width: int
) -> jax.Array:
    """Adds free tokens, cyclically from a uniformly random one, until `min_keep` are visible."""
    free = full(visible.shape, width) & ~(visible | hidden)
    num_free = count_set(free)
    start = below(bits, num_free)
    stop = start + jnp.maximum(min_keep - count_set(visible), 0)
    wraps = stop > num_free
    ends = jnp.stack([start, jnp.where(wraps, stop - num_free, stop)])
    before_start, before_stop = jax.vmap(first_set, in_axes=(None, 0))(free, ends)
    between = before_start ^ before_stop
    return visible | jnp.where(wraps, free & ~between, between)


def _check_context_block(context: Uniform, room: tuple[int, int], min_keep: int) -> None:
    side, _ = square_sides(context)
    area = math.prod(min(max(side, 1), part) for part in room)
    if area < min_keep:
        raise ValueError(
            f"min_keep must be at most {area}, the least context block that context_scale draws; "
            f"got {min_keep}"
        )


def _largest_area(sizes: BlockSizes, room: tuple[int, int]) -> int:
    return max(
        math.prod(min(side, part) for side, part in zip(size, room, strict=True))
        for size in sizes.widest
    )


def _check_room_left(
    tokens: int,
    room: tuple[int, int],
    num_targets: int,
    target: BlockSizes,
    aspect_ratio: tuple[float, float],
    min_keep: int,
) -> None:
    """Refuses targets that can leave fewer than `min_keep` tokens, and says what would do."""
    area = _largest_area(target, room)
    left = tokens - num_targets * area
    if left >= min_keep:
        return

    def too_large(count: int) -> bool:
        up_to = floor_uniform(0, count + 0.5)
        sizes = block_sizes("target_aspect_ratio", up_to, aspect_ratio, half_even=True)
        return tokens - num_targets * _largest_area(sizes, room) < min_keep

    most = target.counts.last // target.counts.unit
    count = bisect.bisect_left(range(most), True, key=too_large) - 1
    scale, fewer = math.floor(1e4 * count / tokens) / 1e4, (tokens - min_keep) // area
    advice = [f"num_targets to {fewer}"] if fewer >= 1 else []
    advice += [f"target_scale to at most {scale}"] if scale > 0 else []
    advice += [f"min_keep to {left}"] if left >= 1 else []
    raise ValueError(
        f"{num_targets} targets (num_targets) of up to {area} tokens (target_scale) can leave "
        f"fewer than {min_keep} context tokens (min_keep) on a grid of {tokens}; lower "
        + (", or ".join(advice) or "num_targets, target_scale and min_keep")
    )


def vjepa_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_blocks: int = 8,
    spatial_scale: Range = (0.15, 0.15),
    temporal_scale: Range = (1.0, 1.0),
    aspect_ratio: Range = (0.75, 1.5),
    max_temporal_keep: float = 1.0,
) -> jax.Array:
    """Draws V-JEPA's target: a union of blocks in space and time that share one size.

    A block lasts `max(1, floor(frames * t))` frames, with `t` from `temporal_scale`. With
    `n = floor(height * width * s)`, `s` from `spatial_scale`, and an aspect ratio `a` it is
    `round(sqrt(n * a))` tokens high and `round(sqrt(n / a))` wide (half to even), clamped to the
    grid. The blocks of one mask share the size and have independent, uniform corners. Every token
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
        grid: `(frames, height, width)`, or `(height, width)` for a single frame; at least two
            tokens.
        num_blocks: number of blocks, at least 1; they may overlap.
        spatial_scale: `(min, max)` of the fraction of a frame in each block,
            `0 < min <= max <= 1`.
        temporal_scale: `(min, max)` of the fraction of the frames in each block,
            `0 < min <= max <= 1`.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.
        max_temporal_keep: fraction of the frames, from the first, that may be context, in `(0, 1]`.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        Bardes et al. (2024), "Revisiting Feature Prediction for Learning Visual Representations
        from Video", section 3; `src/masks/multiblock3d.py` of github.com/facebookresearch/jepa and
        of github.com/facebookresearch/vjepa2.

    Example:
        >>> target = vjepa_mask(jax.random.key(0), (8, 14, 14))
        >>> target.shape, target.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = check_key(key), check_grid(grid)
    num_blocks = check_count("num_blocks", num_blocks)
    low, high = check_range("spatial_scale", spatial_scale)
    shortest, longest = check_range("temporal_scale", temporal_scale)
    ratio = check_range("aspect_ratio", aspect_ratio, high=None)
    max_temporal_keep = check_fraction("max_temporal_keep", max_temporal_keep, one=True)
    frames, height, width = (1, *grid)[-3:]
    tokens = height * width
    count = floor_uniform(tokens * low, tokens * high)
    sizes = block_sizes("aspect_ratio", count, ratio, half_even=True)
    extent = floor_uniform(frames * shortest, frames * longest)
    keep = max(1, math.floor(frames * max_temporal_keep))
    return _vjepa_mask(key, grid, num_blocks, sizes, extent, keep)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _vjepa_mask(
    key: jax.Array,
    grid: tuple[int, ...],
    num_blocks: int,
    sizes: BlockSizes,
    extent: Uniform,
    keep: int,
) -> jax.Array:
    frames, *frame = (1, *grid)[-3:]
    kept = (keep, *frame)
    may_be_full = any(
        can_cover(num_blocks, (extent.last // extent.unit, *size), kept) for size in sizes.widest
    )
    spans_time = max(extent.base // extent.unit, 1) >= frames
    video = frame if spans_time else [frames, *frame]
    placements = 1 + may_be_full * _REDRAWS
    num_corner_words = placements * num_blocks * len(video)
    bits = random_words(key, 3 + num_corner_words + may_be_full)
    extent_bits, count_bits, aspect_bits = bits[:3]
    corner_bits = bits[3 : 3 + num_corner_words].reshape(placements, num_blocks, len(video))

    frame_size = draw_block(count_bits, aspect_bits, sizes)
    extents = () if spans_time else (draw_floor(extent_bits, extent),)
    size = clamp((*extents, *frame_size), video)

    def block(bits: jax.Array) -> jax.Array:
        return box(place(list(bits), size, video), size, video)

    def placement(corner_bits: jax.Array) -> jax.Array:
        words = union(jax.vmap(block)(corner_bits))
        return words if spans_time else words[:keep]

    words = jax.vmap(placement)(corner_bits)
    words = _first_with_context(words, frame[-1]) if may_be_full else words[0]
    words = jnp.broadcast_to(words, (keep, *words.shape[-2:]))
    if may_be_full:
        words = leave_one(words, bits[-1], kept)
    late = jnp.ones((frames - keep, *frame), bool)
    return jnp.concatenate([unpack(words, frame[-1]), late]).reshape(grid)


def _first_with_context(placements: jax.Array, width: int) -> jax.Array:
    has_context = ~jax.vmap(lambda words: is_full(words, width))(placements)
    first = lax.argmax(has_context, 0, jnp.int32)
    chosen = np.arange(len(placements), dtype=np.int32) == first
    return union(jax.vmap(lambda c, words: jnp.where(c, words, jnp.uint32(0)))(chosen, placements))
