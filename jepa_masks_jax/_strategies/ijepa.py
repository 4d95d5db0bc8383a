"""I-JEPA's context block and separate target blocks."""

import bisect
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _sizes


class ContextTargetMasks(NamedTuple):
    """What the context encoder sees, and each block to predict."""

    context: jax.Array
    """bool[*grid]"""
    targets: jax.Array
    """bool[num_targets, *grid]"""


def ijepa_masks(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_targets: int = 4,
    target_scale: _check.Range = (0.15, 0.2),
    target_aspect_ratio: _check.Range = _sizes.JEPA_ASPECT_RATIO,
    context_scale: _check.Range = (0.85, 1.0),
    min_keep: int = 10,
    allow_overlap: bool = False,
    sampling: Literal["paper", "reference"] = "paper",
) -> ContextTargetMasks:
    """Draws I-JEPA's context and its separate target blocks.

    A block of scale `s` and aspect `a` has `n = floor(height * width * s)` and is
    `round(sqrt(n * a))` tokens high and `round(sqrt(n / a))` wide (half to even), clamped to the
    grid. On a sequence it is `max(1, floor(length * s))` tokens long. The targets of one mask share
    one size and have independent corners. The context is one block of aspect 1 without the tokens
    of any target. A context of fewer than `min_keep` tokens
    is topped up from the free tokens, outside it and every target: a uniformly random one and
    those that follow it in raster order, cyclically. Every free token is equally likely.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(length,)`, at least two tokens. An image grid is refused as too
            thin where the largest target that the options reach, clamped to the grid, has fewer
            than 0.4 of the least `n`.
        num_targets: number of target blocks, from 1 to 2**16; they may overlap.
        target_scale: `(min, max)` of the fraction of the grid in each target,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. For blocks of up
            to `n` tokens, `n * max(1, max, max / min) / min(1, min)` can be up to about 2**23. On a
            sequence it has no meaning and must be the default.
        context_scale: `(min, max)` of the fraction of the grid in the context block,
            `0 < min <= max <= 1`.
        min_keep: least number of context tokens, at least 1.
        allow_overlap: leaves the targets' tokens in the context.
        sampling: `"paper"` draws scale and aspect independently, and blocks reach every token.
            `"reference"` does what the released code does before it truncates, wherever that would
            not draw again: one number draws both scale and aspect, blocks are strictly smaller
            than the grid and never touch its last row and column. There a batch shares one size,
            here each mask has its own. Only for `(height, width)`, each at least 2.

    Returns:
        ContextTargetMasks: `context` bool[*grid] with at least `min_keep` tokens, and `targets`
        bool[num_targets, *grid], none empty. Unless `allow_overlap`, no token is in both.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if `key` is a batch of keys, an option is out of its range, the grid is too
            thin, or the options cannot guarantee `min_keep`; the message then says what to lower,
            and to what.

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
    key, grid = _check.key(key), _check.grid(grid, ranks=(1, 2))
    num_targets = _check.block_count("num_targets", num_targets)
    low, high = _check.real_range("target_scale", target_scale)
    aspect_ratio = _check.real_range("target_aspect_ratio", target_aspect_ratio, high=None)
    context_low, context_high = _check.real_range("context_scale", context_scale)
    min_keep = _check.count("min_keep", min_keep)
    allow_overlap = _check.flag("allow_overlap", allow_overlap)
    if not isinstance(sampling, str) or sampling not in ("paper", "reference"):
        raise ValueError(f"sampling must be 'paper' or 'reference', got {sampling!r}")
    shared_draw = sampling == "reference"
    if shared_draw and (len(grid) < 2 or min(grid) < 2):
        raise ValueError(
            f"grid must be (height, width), each at least 2, for sampling='reference', got {grid}"
        )

    tokens = math.prod(grid)
    counts = _sizes.whole_steps(tokens * low, tokens * high)
    sizes = _sizes.jepa_sizes("target_aspect_ratio", counts, aspect_ratio, len(grid))
    _sizes.refuse_thin_grid(grid, grid, sizes, "target_scale", "target_aspect_ratio")
    plan = _Plan(
        room=tuple(side - shared_draw for side in grid),
        num_targets=num_targets,
        target_sizes=sizes,
        context_counts=_sizes.whole_steps(tokens * context_low, tokens * context_high),
        min_keep=None if allow_overlap else min_keep,
        shared_draw=shared_draw,
    )
    if allow_overlap:
        _check_context_block(plan, min_keep)
    else:
        _check_room_left(plan, grid, aspect_ratio, min_keep)
    return _ijepa_masks(key, grid, plan)


class _Plan(NamedTuple):
    room: tuple[int, ...]
    """Blocks are placed inside it, from the first token."""
    num_targets: int
    target_sizes: _sizes.JepaSizes
    context_counts: _sizes.Steps
    min_keep: int | None
    """None if the targets' tokens stay in the context."""
    shared_draw: bool
    """Whether one draw makes both the scale and the aspect ratio."""


@functools.partial(jax.jit, static_argnums=(1, 2))
def _ijepa_masks(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> ContextTargetMasks:
    rank, num_blocks = len(grid), plan.num_targets + 1
    draws = _draws.random_draws(key, 4 + rank * num_blocks)
    count_draw, aspect_draw, context_draw, top_up_draw = draws[:4]
    corner_draws = draws[4:].reshape(num_blocks, rank).T

    target_size = _sizes.draw_jepa_size(
        count_draw, count_draw if plan.shared_draw else aspect_draw, plan.target_sizes
    )
    context_count = _sizes.draw_whole(context_draw, plan.context_counts)
    context_side = (
        context_count if rank == 1 else _sizes.traced_rounded_sqrt(4 * context_count, jnp.int32(1))
    )
    is_context = np.arange(num_blocks) == plan.num_targets
    size = _boxes.clamp(
        [jnp.where(is_context, context_side, side) for side in target_size], plan.room
    )
    start = _boxes.place(corner_draws, size, plan.room)
    blocks = _boxes.each_box(start, size, grid)
    targets, context = blocks[:-1], blocks[-1]
    if plan.min_keep is not None:
        # Not `targets.any(0)`, which takes half as long again on a CPU.
        hidden = _boxes.union([part[:-1] for part in start], [part[:-1] for part in size], grid)
        context = _top_up(context & ~hidden, ~(context | hidden), plan.min_keep, top_up_draw)
    return ContextTargetMasks(context, targets)


def _top_up(context: jax.Array, free: jax.Array, min_keep: int, draw: jax.Array) -> jax.Array:
    """Adds free tokens, cyclically from a uniformly random one, until there are `min_keep`."""
    num_free = jnp.sum(free, dtype=jnp.int32)
    missing = min_keep - jnp.sum(context, dtype=jnp.int32)
    from_first = _count_before(free) - _draws.whole_below(draw, num_free)
    from_first = jnp.where(from_first < 0, from_first + num_free, from_first)
    return context | free & (from_first < missing)


def _count_before(mask: jax.Array) -> jax.Array:
    """Counts the True tokens before each one in row-major order: bool[*grid] to int32[*grid].

    Rows are packed into words, because a cumulative sum takes several times as long as all the rest
    of a mask on a CPU, and so does packing the flat mask.
    """
    width = mask.shape[-1]
    per_word = min(width, 32)
    rows = jnp.pad(mask.reshape(-1, width), ((0, 0), (0, -width % per_word)))
    tokens = rows.reshape(-1, per_word)
    bit = lax.broadcasted_iota(jnp.uint32, tokens.shape, 1)
    word = jnp.sum(tokens.astype(jnp.uint32) << bit, axis=1, dtype=jnp.uint32)
    in_word = lax.population_count(word[:, None] & ((jnp.uint32(1) << bit) - 1))
    count = lax.population_count(word)
    before_word = jnp.cumsum(count, dtype=jnp.uint32) - count
    before = (before_word[:, None] + in_word).astype(jnp.int32)
    return before.reshape(rows.shape)[:, :width].reshape(mask.shape)


def _check_context_block(plan: _Plan, min_keep: int) -> None:
    fewest, _ = _sizes.least_and_most(plan.context_counts)
    side = fewest if len(plan.room) == 1 else _sizes.rounded_sqrt(4 * fewest)
    area = math.prod(min(max(side, 1), part) for part in plan.room)
    if area < min_keep:
        raise ValueError(
            f"min_keep must be at most {area}, the least context block that context_scale draws; "
            f"got {min_keep}"
        )


def _check_room_left(
    plan: _Plan, grid: tuple[int, ...], aspect_ratio: tuple[float, float], min_keep: int
) -> None:
    """Refuses targets that may leave fewer than `min_keep` tokens, and says what would do."""
    tokens, num_targets = math.prod(grid), plan.num_targets
    area = plan.target_sizes.largest_area(plan.room)
    left = tokens - num_targets * area
    if left >= min_keep:
        return

    def too_large(count: int) -> bool:
        counts = _sizes.whole_steps(0, count + 0.5)
        sizes = _sizes.jepa_sizes("target_aspect_ratio", counts, aspect_ratio, len(grid))
        return tokens - num_targets * sizes.largest_area(plan.room) < min_keep

    _, most = _sizes.least_and_most(plan.target_sizes.counts)
    count = bisect.bisect_left(range(most), True, key=too_large) - 1
    scale, fewer = math.floor(1e4 * count / tokens) / 1e4, (tokens - min_keep) // area
    advice = [f"num_targets to {fewer}"] if fewer >= 1 else []
    advice += [f"target_scale to at most {scale}"] if scale > 0 else []
    advice += [f"min_keep to {left}"] if left >= 1 else []
    raise ValueError(
        f"{num_targets} targets (num_targets) of up to {area} tokens (target_scale) guarantee the "
        f"context {max(left, 0)} of {tokens} tokens, fewer than {min_keep} (min_keep); lower "
        + (", or ".join(advice) or "num_targets, target_scale and min_keep")
    )
