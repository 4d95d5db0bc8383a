"""I-JEPA's context block and separate target blocks."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _boxes, _check, _draws, _sizes, _subsets, _tracing, _within
from jepa_masks_jax._check import Grid, Int, Range, Within
from jepa_masks_jax._sizes import JepaBlocks
from jepa_masks_jax._types import ContextTargetMasks


def ijepa_masks(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: Int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect_ratio: Range = _sizes.JEPA_ASPECT_RATIO,
    context_scale: Range = (0.85, 1.0),
    min_keep: Int = 10,
    allow_overlap: bool = False,
    sampling: Literal["independent", "reference"] = "independent",
    within: Within | None = None,
) -> ContextTargetMasks:
    """Samples I-JEPA's masks: a few target blocks, and a large context block without their tokens.

        .222.....      .  context
        .222.111.      1  first target
        .....111.      2  second target
                       blank: neither

    On a grid of `H` by `W` tokens:

    1. Sample one size for all targets. With a scale `s` from `target_scale`, an aspect ratio `a`
       from `target_aspect_ratio` and `n = floor(H * W * s)`, a target is `round(sqrt(n * a))`
       tokens high and `round(sqrt(n / a))` wide (half to even).
    2. Place each target uniformly over every position that keeps it inside the grid. Targets may
       overlap.
    3. Sample a square context block in the same way, with a scale from `context_scale` and `a = 1`.
    4. Remove the tokens of all targets from the context.
    5. If fewer than `min_keep` context tokens remain, add free tokens, which are in neither set:
       consecutive ones in row-major order (wrapping around), starting at a random one.

    A side that does not fit is cut to the grid. If `H` and `W` differ, the block then keeps its
    area: the other side becomes `round(n / cut_side)` (half up). On a sequence a block is
    `max(1, floor(length * s))` tokens long.

    Args:
        key: a single PRNG key.
        grid: `(height, width)` or `(length,)`, at least two tokens.
        num_targets: count of target blocks, from 1 to 2**16.
        target_scale: `(min, max)` of the fraction of the grid in each target,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. On a sequence it
            has no meaning and must be the default.
        context_scale: `(min, max)` of the fraction of the grid in the context block,
            `0 < min <= max <= 1`.
        min_keep: minimum of context tokens, at least 1. `ijepa_counts` returns the largest value
            that the other options allow.
        allow_overlap: whether the targets' tokens stay in the context.
        sampling: `"independent"` samples scale and aspect ratio independently, and blocks reach
            every token. `"reference"` follows the released code, see Notes.
        within: the real sides of a sample that is smaller than the grid, such as `(9, 12)` in a
            grid of `(16, 16)`: ints, or an integer array of shape `(rank,)`, traced or not, clamped
            into `[1, side]`. The masks are those that `grid=within` gives with the same key, False
            outside.

    Returns:
        ContextTargetMasks: `context` bool[*grid] with at least `min_keep` tokens, and `targets`
        bool[num_targets, *grid], none empty. Unless `allow_overlap`, no token is in both. Notes
        say what holds on the smallest sizes of `within`.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if an option is out of its range, or if the options cannot guarantee `min_keep`;
            the message then says what to lower.

    Notes:
        On a square grid a side is cut without extending the other, as in the released code.

        `"reference"` follows github.com/facebookresearch/ijepa, without truncation and rejection.
        Scale and aspect ratio share one random number, no block reaches the last row or column, and
        no block keeps its area. Thin grids are refused, and each side must be 2 or more. Unlike in
        that code, each mask has its own block size.

        `within` accepts sizes that `grid=` refuses. The context then has at least `min_keep`
        tokens, or all tokens outside the targets if those are fewer. With `allow_overlap` it is the
        context block, whatever its size. If the targets hold every real token and may not overlap,
        a random token is taken from them to be the context, which is never empty. A target can be
        empty only if there are at most `num_targets` real tokens.

        `within` plans the blocks of all sizes at the first call, which costs time and memory on
        grids of a million tokens or more: 4 s on 512x512, and 21 s and 1.2 GiB on 2048x2048.

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

        Images of many sizes in one batch, each with its own height and width:

        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> sizes = jnp.array([[14, 9], [8, 16]])
        >>> sample = lambda key, size: ijepa_masks(key, (16, 16), within=size)
        >>> jax.vmap(sample)(keys, sizes).context.shape
        (2, 16, 16)
    """
    key, grid = _check.key(key), _check.grid(grid, (1, 2))
    min_keep = _check.integer("min_keep", min_keep)
    options = _check_options(
        grid, num_targets, target_scale, target_aspect_ratio, context_scale, allow_overlap, sampling
    )
    within = _check.within(within, grid)
    if within is not None and options.reference:
        raise ValueError("within needs sampling='independent', got sampling='reference'")

    @_tracing.jit
    def sample(key: jax.Array, within: Any) -> ContextTargetMasks:
        _refuse_min_keep(grid, options, min_keep)
        real = _within.real_part(grid, within)
        room = options.room(real.within)
        sample_sides = functools.partial(
            _sizes.sample_jepa_sides, room=room, keep_area=not options.reference
        )
        target_blocks, context_blocks = _tracing.planned(
            _plan, real.tokens, options, largest=math.prod(grid)
        )
        words = _draws.random_words(key, 4 + len(grid) * (options.num_targets + 1))
        count_word, aspect_word, context_word, last_word = words[:4]
        corner_words = words[4:].reshape(-1, len(grid)).T
        if options.reference:
            aspect_word = count_word
        target_sides = sample_sides(count_word, aspect_word, target_blocks)
        # The context is a square whatever its second word.
        context_sides = sample_sides(context_word, context_word, context_blocks)
        targets = _boxes.place_each(corner_words[:, :-1], target_sides, room, grid)
        context = _boxes.place_each(corner_words[:, -1], context_sides, room, grid)
        if options.allow_overlap:
            return ContextTargetMasks(context, targets)
        covered = jnp.any(targets, axis=0)
        if within is not None:
            # Targets may cover all of a small sample: then one token of theirs is the context.
            left = _boxes.token_left(covered, real, last_word)
            targets, covered, context = targets & ~left[None], covered & ~left, context | left
        context = _subsets.top_up(context & ~covered, real.inside & ~covered, min_keep, last_word)
        return ContextTargetMasks(context, targets)

    return sample(key, within)


class IjepaCounts(NamedTuple):
    """The token counts that options of `ijepa_masks` allow."""

    min_keep: int
    """the largest `min_keep` that `ijepa_masks` accepts, 0 if it accepts none"""
    target_min: int
    """the minimum of a target's tokens"""
    target_max: int
    """the maximum of a target's tokens"""


def ijepa_counts(
    grid: Grid,
    *,
    num_targets: Int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect_ratio: Range = _sizes.JEPA_ASPECT_RATIO,
    context_scale: Range = (0.85, 1.0),
    min_keep: Int = 10,
    allow_overlap: bool = False,
    sampling: Literal["independent", "reference"] = "independent",
) -> IjepaCounts:
    """Returns the token counts that options of `ijepa_masks` allow, to size index lists.

    Args:
        grid: as in `ijepa_masks`.
        num_targets: as in `ijepa_masks`.
        target_scale: as in `ijepa_masks`.
        target_aspect_ratio: as in `ijepa_masks`.
        context_scale: as in `ijepa_masks`.
        min_keep: not used, so that `**presets.ijepa.keywords` fits.
        allow_overlap: as in `ijepa_masks`.
        sampling: as in `ijepa_masks`.

    Returns:
        IjepaCounts of Python ints: `min_keep`, the largest that `ijepa_masks` accepts;
        `target_min` and `target_max`, the bounds of a target's tokens, for `token_indices(size=)`.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is out of its range.

    Notes:
        These are the counts of a sample that fills the grid. For samples of several sizes take the
        maximum of `target_max` over the sizes that occur. It may be far smaller than that of the
        grid: it is 210 on 32x32, but 56 over all samples of at most 256 tokens. It may also be
        larger: one target of scale 0.4 and aspect ratio 3 has 70 tokens on 14x14, but 78 on 13x14,
        where the other side makes up for the one that is cut.

    Source:
        This library's own.

    Example:
        >>> ijepa_counts((14, 14))
        IjepaCounts(min_keep=28, target_min=24, target_max=42)
    """
    del min_keep
    grid = _check.grid(grid, (1, 2))
    options = _check_options(
        grid, num_targets, target_scale, target_aspect_ratio, context_scale, allow_overlap, sampling
    )
    return _allowed_counts(grid, options)


class _Options(NamedTuple):
    num_targets: int
    target_scale: tuple[float, float]
    target_aspect_ratio: tuple[float, float] | None
    """None on a sequence."""
    context_scale: tuple[float, float]
    allow_overlap: bool
    reference: bool

    def room(self, sides: Any) -> tuple[Any, ...]:
        """Returns the sides that blocks are placed in, from the first token on."""
        return tuple(side - int(self.reference) for side in sides)


def _check_options(
    grid: tuple[int, ...],
    num_targets: Any,
    target_scale: Any,
    target_aspect_ratio: Any,
    context_scale: Any,
    allow_overlap: Any,
    sampling: Any,
) -> _Options:
    sampling = _check.choice("sampling", sampling, "independent", "reference")
    if sampling == "reference" and (len(grid) < 2 or min(grid) < 2):
        raise ValueError(
            f"grid must be (height, width), each at least 2, for sampling='reference', got {grid}"
        )
    return _Options(
        num_targets=_check.block_count("num_targets", num_targets),
        target_scale=_check.pair("target_scale", target_scale, _check.scale),
        target_aspect_ratio=_sizes.check_aspect_ratio(
            "target_aspect_ratio", target_aspect_ratio, len(grid)
        ),
        context_scale=_check.pair("context_scale", context_scale, _check.scale),
        allow_overlap=_check.flag("allow_overlap", allow_overlap),
        reference=sampling == "reference",
    )


def _plan(tokens: np.ndarray, options: _Options) -> tuple[JepaBlocks, JepaBlocks]:
    """Plans the targets and the context."""
    scale, aspect_ratio = options.target_scale, options.target_aspect_ratio
    targets = _sizes.jepa_blocks(tokens, "target_aspect_ratio", scale, aspect_ratio)
    counts = _draws.uniform(*(tokens * end for end in options.context_scale))
    return targets, JepaBlocks(counts, None if aspect_ratio is None else _sizes.SQUARE)


_THINNEST = 0.4
"""A grid is too thin for the reference if no block that fits in all of it, last row and column
included, has this part of a target's minimum area."""


def _allowed_counts(grid: tuple[int, ...], options: _Options) -> IjepaCounts:
    targets, context = _tracing.planned(_plan, math.prod(grid), options)

    def areas(count: int, blocks: JepaBlocks, room: tuple[int, ...]) -> list[int]:
        sides = _sizes.all_sides(count, blocks.aspects, room, keep_area=not options.reference)
        return [math.prod(of_one) for of_one in sides]

    (smallest, largest), room = targets.counts.floors, options.room(grid)
    if options.reference:
        minimum, maximum = max(smallest, 1), max(areas(largest, targets, grid))
        if maximum < _THINNEST * minimum:
            raise ValueError(
                f"grid {grid} is too thin for sampling='reference': target_scale asks for blocks "
                f"of at least {minimum} tokens, and the largest block of this target_aspect_ratio "
                f"holds at most {maximum} there; sampling='independent' keeps the area"
            )
    target_min = min(areas(smallest, targets, room))
    target_max = max(areas(largest, targets, room))
    if options.allow_overlap:
        left = min(areas(context.counts.floors[0], context, room))
    else:
        left = math.prod(grid) - options.num_targets * target_max
    return IjepaCounts(max(left, 0), target_min, target_max)


def _refuse_min_keep(grid: tuple[int, ...], options: _Options, min_keep: int) -> None:
    counts = _allowed_counts(grid, options)
    if min_keep <= counts.min_keep:
        return
    if options.allow_overlap:
        raise ValueError(
            f"min_keep must be at most {counts.min_keep}, the smallest context block of "
            f"context_scale; got {min_keep}"
        )
    tokens, fewer = math.prod(grid), (math.prod(grid) - min_keep) // counts.target_max
    advice = [f"num_targets to {fewer}"] if fewer >= 1 else []
    advice += [f"min_keep to {counts.min_keep}"] if counts.min_keep >= 1 else []
    raise ValueError(
        f"{options.num_targets} targets (num_targets) of up to {counts.target_max} tokens "
        f"(target_scale) guarantee the context {counts.min_keep} of {tokens} tokens, fewer than "
        f"{min_keep} (min_keep); lower {', or '.join([*advice, 'target_scale'])}"
    )
