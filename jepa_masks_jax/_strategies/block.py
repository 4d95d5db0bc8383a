"""Rectangles that share a scale: `BlockMasking` of jepa-rs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _sizes, _tracing
from jepa_masks_jax._check import Grid, Int, Range
from jepa_masks_jax._draws import Uniform


def block_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: Int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect_ratio: Range = (0.75, 1.5),
) -> jax.Array:
    """Samples rectangles whose total area is a fraction of the image; a port of jepa-rs.

    For I-JEPA use `ijepa_masks`, whose targets are separate and have the full scale each.

    On frames of `H` by `W` tokens, each of the `num_targets` blocks samples a scale `s` from
    `target_scale` and an aspect ratio `a` from `target_aspect_ratio`:

    1. Its area is `n = round(H * W * s / num_targets)`.
    2. It is `h = round(sqrt(n * a))` tokens high and `max(n // h, 1)` wide (1 if `h` is 0); both
       are cut to the frame. `round` is half away from zero.
    3. It is placed uniformly over every position that keeps it inside.

    The mask is the union of the blocks. If they cover the whole frame, one random token is left
    unmasked. On a video the mask is repeated in every frame.

    Args:
        key: a single PRNG key.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        num_targets: count of blocks, from 1 to 2**16; they may overlap.
        target_scale: `(min, max)` of the fraction of a frame that the blocks hold together,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.

    Returns:
        bool[*grid], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if an option is out of its range.

    Source:
        `BlockMasking` of the Rust crate jepa-core, after Assran et al. (2023), "Self-Supervised
        Learning from Images with a Joint-Embedding Predictive Architecture", section 3. There a
        video gets a mask of one frame.

    Example:
        >>> mask = block_mask(jax.random.key(0), (14, 14))
        >>> mask.shape, mask.dtype
        ((14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, (2, 3), whole_frames=True)
    num_targets = _check.block_count("num_targets", num_targets)
    scale = _check.pair("target_scale", target_scale, _check.scale)
    aspect_ratio = _check.pair("target_aspect_ratio", target_aspect_ratio, _check.positive)
    frame = grid[-2:]

    @_tracing.jit
    def sample(key: jax.Array) -> jax.Array:
        def plan(tokens: np.ndarray) -> tuple[Uniform, Uniform]:
            counts = _draws.uniform(*(tokens * end / num_targets + 0.5 for end in scale))
            return counts, _sizes.aspects("target_aspect_ratio", aspect_ratio, counts.floors[1])

        counts, aspects = _tracing.planned(plan, math.prod(frame))
        smallest, largest = counts.floors
        lowest = _sizes.rounded_sqrt(4 * smallest * aspects.first, aspects.unit)
        highest = _sizes.rounded_sqrt(4 * largest * aspects.last, aspects.unit)
        may_be_full = _boxes.can_cover(num_targets, (highest, largest // max(lowest, 1)), frame)
        words, last_word = _boxes.words_of_boxes(key, num_targets, 4, may_be_full=may_be_full)
        count, aspect = counts.sample_floor(words[0]), aspects.sample(words[1])
        height = _sizes.traced_rounded_sqrt(4 * count * aspect, jnp.int32(aspects.unit))
        width = jnp.where(height > 0, lax.div(count, jnp.maximum(height, 1)), 1)
        return jnp.broadcast_to(_boxes.union(words[2:], (height, width), frame, last_word), grid)

    return sample(key)
