"""Equal squares: `MultiBlockMasking` of jepa-rs."""

import math

import jax
import jax.numpy as jnp

from jepa_masks_jax import _boxes, _check, _sizes, _tracing, _within


def multi_block_mask(
    key: jax.Array, grid: _check.Grid, *, mask_ratio: float = 0.5, num_blocks: int = 4
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
    key, grid = _check.key(key), _check.grid(grid, whole_frames=True)
    mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    num_blocks = _check.block_count("num_blocks", num_blocks)
    count = max(math.floor(math.prod(grid[-2:]) * mask_ratio + 0.5) // num_blocks, 1)
    side = _sizes.rounded_sqrt(4 * count)
    may_be_full = _boxes.can_cover(num_blocks, (side, side), grid[-2:])
    return _multi_block_mask(key, grid, num_blocks, side, may_be_full)


@_tracing.jit
def _multi_block_mask(
    key: jax.Array, grid: tuple[int, ...], num_blocks: int, side: int, may_be_full: bool
) -> jax.Array:
    frame = _within.true_part(grid[-2:], None)
    words, last_word = _boxes.words_of_boxes(key, num_blocks, 2, may_be_full)
    mask = jnp.any(_boxes.place_each(words, (side, side), frame.sides, frame.grid), axis=0)
    if may_be_full:
        mask = _boxes.leave_one(mask, frame, last_word)
    return jnp.broadcast_to(mask, grid)
