"""Equal squares: `MultiBlockMasking` of jepa-rs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jepa_masks_jax import _boxes, _check, _sizes, _tracing
from jepa_masks_jax._check import Grid, Int, Real


def multi_block_mask(
    key: jax.Array, grid: Grid, *, mask_ratio: Real = 0.5, num_blocks: Int = 4
) -> jax.Array:
    """Samples equal squares whose areas sum to about `mask_ratio` of a frame; a port of jepa-rs.

    On frames of `H` by `W` tokens:

    1. A block's area is `n = max(round(H * W * mask_ratio) // num_blocks, 1)`.
    2. It is a square of side `round(sqrt(n))`, cut to each side of the frame. `round` is half away
       from zero.
    3. Each block is placed uniformly over every position that keeps it inside.

    The mask is the union of the blocks, in all frames of a video. If they cover the whole frame,
    one random token is left unmasked. `mask_ratio` is nominal: rounding and overlap change the
    actual ratio, which is usually lower; `clip_count` makes it exact.

    Args:
        key: a single PRNG key.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame that the blocks would hold without overlap, in `(0, 1)`.
        num_blocks: count of blocks, from 1 to 2**16.

    Returns:
        bool[*grid], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if an option is out of its range.

    Source:
        `MultiBlockMasking` of the Rust crate jepa-core. Given a video, that crate sizes blocks
        from all frames and then masks the first frame only; this one sizes them from a frame and
        masks all frames.

    Example:
        >>> mask = multi_block_mask(jax.random.key(0), (14, 14), mask_ratio=0.6)
        >>> mask.shape, mask.dtype
        ((14, 14), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, (2, 3), whole_frames=True)
    mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    num_blocks = _check.block_count("num_blocks", num_blocks)
    frame = grid[-2:]
    count = max(math.floor(math.prod(frame) * mask_ratio + 0.5) // num_blocks, 1)
    sides = (_sizes.rounded_sqrt(4 * count),) * 2

    @_tracing.jit
    def sample(key: jax.Array) -> jax.Array:
        may_be_full = _boxes.can_cover(num_blocks, sides, frame)
        words, last_word = _boxes.words_of_boxes(key, num_blocks, 2, may_be_full=may_be_full)
        return jnp.broadcast_to(_boxes.union(words, sides, frame, last_word), grid)

    return sample(key)
