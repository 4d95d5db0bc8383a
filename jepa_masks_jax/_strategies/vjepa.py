"""V-JEPA's blocks in space and time."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _grids, _sizes, _tracing, _within
from jepa_masks_jax._draws import Uniform
from jepa_masks_jax._within import TruePart

_PLACEMENTS = 4
"""The blocks are placed so many times if one placement may leave no context."""

_ALL_FRAMES = (1.0, 1.0)


def vjepa_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_blocks: int = 8,
    spatial_scale: _check.Range = (0.15, 0.15),
    temporal_scale: _check.Range = _ALL_FRAMES,
    aspect_ratio: _check.Range = _sizes.JEPA_ASPECT_RATIO,
    max_temporal_keep: float = 1.0,
    within: _within.Within | None = None,
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
    4. If the blocks leave no context, place them again, at most three times. If all four placements
       leave none, one random token of the frames that can be context becomes context.

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
        within: the true sides of a sample that is smaller than the grid, such as `(5, 9, 12)` for a
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

        If `within` leaves one true token, the target is empty.

    Source:
        Bardes et al. (2024), "Revisiting Feature Prediction for Learning Visual Representations
        from Video", section 3; `src/masks/multiblock3d.py` of github.com/facebookresearch/jepa and
        of github.com/facebookresearch/vjepa2.

    Example:
        >>> target = vjepa_mask(jax.random.key(0), (8, 14, 14))
        >>> target.shape, target.dtype
        ((8, 14, 14), dtype('bool'))

        V-JEPA's pair for clips of many lengths, each with its own count of frames:

        >>> import jepa_masks_jax as jm
        >>> def pair(key, frames):
        ...     short, long = jax.random.split(key)
        ...     sides = jnp.array([frames, 14, 14])
        ...     return (
        ...         jm.presets.vjepa_short_range(short, (8, 14, 14), within=sides),
        ...         jm.presets.vjepa_long_range(long, (8, 14, 14), within=sides),
        ...     )
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> masks = jax.vmap(pair)(keys, jnp.array([8, 5, 2]))
        >>> [int(mask[2, 2:].sum()) for mask in masks]
        [0, 0]
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(1, 2, 3))
    frames, *frame = _grids.as_frames(grid)
    num_blocks = _check.block_count("num_blocks", num_blocks)
    scale = _check.real_range("spatial_scale", spatial_scale)
    aspect = _sizes.check_aspect_ratio("aspect_ratio", aspect_ratio, len(frame))
    times = _check.real_range("temporal_scale", temporal_scale)
    keep = _check.fraction("max_temporal_keep", max_temporal_keep, one=True)
    for name, value, default in (
        ("temporal_scale", times, _ALL_FRAMES),
        ("max_temporal_keep", keep, 1.0),
    ):
        if len(grid) < 3 and value != default:
            raise ValueError(
                f"{name} has no meaning without frames and must be {default}, got {value}"
            )
    sides = _within.check(within, grid)
    if sides is not None and times != _ALL_FRAMES:
        raise ValueError(f"within needs temporal_scale={_ALL_FRAMES}, got {temporal_scale!r}")

    frame_options = (math.prod(frame), "aspect_ratio", scale, aspect)
    time_options = (frames, times, keep)
    blocks = _within.plan_for(_sizes.jepa_blocks, *frame_options)
    time = _within.plan_for(_plan_time, *time_options)
    shortest, longest = time.lengths.whole
    may_be_full = sides is not None or any(
        _boxes.can_cover(num_blocks, (longest, *largest), (time.open_frames, *frame))
        for largest in _sizes.reached_sides(blocks, tuple(frame), keep_area=True)
    )
    if sides is not None:
        blocks = _within.plan_for(_sizes.jepa_blocks, *frame_options, traced=True)
        time = _within.plan_for(_plan_time, *time_options, traced=len(grid) == 3)
    layout = _Layout(num_blocks, max(shortest, 1) >= frames, may_be_full)
    return _vjepa_mask(key, sides, grid, blocks, time, layout)


class _Time(NamedTuple):
    lengths: Uniform
    """The frames of a block, before they are rounded down."""
    open_frames: Any
    """The frames that can be context, from the first."""


def _plan_time(frames: np.ndarray, scale: tuple[float, float], max_temporal_keep: float) -> _Time:
    low, high = scale
    open_frames = np.maximum(np.floor(frames * max_temporal_keep), 1)
    return _Time(_draws.whole_uniform(frames * low, frames * high), open_frames)


class _Layout(NamedTuple):
    num_blocks: int
    all_frames: bool
    """Whether every block lasts all frames: one frame is then sampled and repeated."""
    may_be_full: bool
    """Whether the blocks can leave no context."""


@_tracing.jit
def _vjepa_mask(
    key: jax.Array,
    within: jax.Array | None,
    grid: tuple[int, ...],
    blocks: Any,
    time: Any,
    layout: _Layout,
) -> jax.Array:
    part = _within.true_part(grid, within)
    video = TruePart(_grids.as_frames(grid), _grids.as_frames(part.sides))
    frame = TruePart(video.grid[1:], video.sides[1:])
    time = _within.plan_at(time, video.sides[0])
    open_part = TruePart(video.grid, (time.open_frames, *frame.sides))
    placed, covered = (frame, frame) if layout.all_frames else (video, open_part)

    shape = (_PLACEMENTS if layout.may_be_full else 1, layout.num_blocks, len(placed.grid))
    num_corner_words = math.prod(shape)
    words = _draws.random_words(key, 3 + num_corner_words + layout.may_be_full)
    sides = _sizes.sample_jepa_sides(
        words[1], words[2], _within.plan_at(blocks, frame.tokens), frame.sides, keep_area=True
    )
    if not layout.all_frames:
        sides = time.lengths.sample_whole(words[0]), *sides
    corner_words = jnp.moveaxis(words[3 : 3 + num_corner_words].reshape(shape), -1, 0)
    unions = jnp.any(_boxes.place_each(corner_words, sides, placed.sides, placed.grid), axis=1)

    is_full = jnp.all(unions | ~covered.inside[None], axis=range(1, unions.ndim))
    first_open = lax.argmin(is_full, 0, jnp.int32)
    target = jnp.broadcast_to(unions[first_open], video.grid)
    if layout.may_be_full:
        target = _boxes.leave_one(target, open_part, words[-1])
    return ((target | ~open_part.inside) & video.inside).reshape(grid)
