"""Equal squares: `MultiBlockMasking` of jepa-rs."""

import functools
import math

import jax
import jax.numpy as jnp

from jepa_masks_jax import _boxes, _check, _sizes


def multi_block_mask(
    key: jax.Array, grid: _check.Grid, *, mask_ratio: float = 0.5, num_blocks: int = 4
) -> jax.Array:
    """Draws a target of equal squares whose areas sum to about `mask_ratio` of a frame.

    Each block is a square of side `round(sqrt(n))`, clamped to each side of the grid, with
    `n = max(round(height * width * mask_ratio) // num_blocks, 1)` (`round` is half away from zero).
    Its corner is uniform over every position that keeps it inside. Blocks overlap, so the realised
    ratio is below `mask_ratio`; `clip_count` makes it exact. If the blocks cover the whole grid,
    one uniformly random token is left out.

    On a video grid each block covers all frames. A square is clamped to a thin grid, and so holds
    fewer tokens there than its share.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame that the blocks would hold without overlap, in `(0, 1)`.
        num_blocks: number of blocks, from 1 to 2**16.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        `MultiBlockMasking` of the Rust module jepa-core. Given a video, that module sizes blocks
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
    return _multi_block_mask(key, grid, num_blocks, _sizes.rounded_sqrt(4 * count))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _multi_block_mask(
    key: jax.Array, grid: tuple[int, ...], num_blocks: int, side: int
) -> jax.Array:
    mask = _boxes.random_union(
        key,
        grid[-2:],
        lambda: (side, side),
        num_boxes=num_blocks,
        size_draws=0,
        largest=(side, side),
    )
    return jnp.broadcast_to(mask, grid)
