"""The three strategies of jepa-rs: the target is a union of blocks, the context is the rest."""

import functools
import math

import jax
import jax.numpy as jnp

from jepa_masks_jax._bits import below
from jepa_masks_jax._boxes import box, clamp, place, random_union
from jepa_masks_jax._checks import (
    MAX_TOKENS,
    Grid,
    Range,
    check_count,
    check_count_range,
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
    draw_square_side,
    floor_uniform,
    square_sides,
)


def block_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect_ratio: Range = (0.75, 1.5),
) -> jax.Array:
    """Draws a target of rectangular blocks that share the target scale.

    The blocks share `target_scale`, they do not each have it. For I-JEPA's published setting, where
    each does, use `ijepa_masks`.
    With `n = round(height * width * scale / num_targets)` a block is
    `h = round(sqrt(n * aspect))` tokens high and `max(n // h, 1)` wide (1 if `h` is 0), then both
    are clamped to the grid (`round` is half away from zero). Its corner is uniform over every
    position that keeps it inside. If the blocks cover the whole grid, one uniformly random token is
    left out.

    On a video grid the same mask stands in every frame.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        num_targets: number of blocks, at least 1; they may overlap.
        target_scale: `(min, max)` of the fraction of a frame that the blocks share,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        `BlockMasking` of the Rust module jepa-core, after Assran et al. (2023), "Self-Supervised
        Learning from Images with a Joint-Embedding Predictive Architecture", section 3. There a
        video gets a mask of one frame.

    Example:
        >>> mask = block_mask(jax.random.key(0), (14, 14))
        >>> mask.shape, mask.dtype
        ((14, 14), dtype('bool'))
    """
    key, grid = check_key(key), check_grid(grid, whole_frames=True)
    num_targets = check_count("num_targets", num_targets)
    low, high = check_range("target_scale", target_scale)
    aspect_ratio = check_range("target_aspect_ratio", target_aspect_ratio, high=None)
    tokens = math.prod(grid[-2:])
    count = floor_uniform(tokens * low / num_targets + 0.5, tokens * high / num_targets + 0.5)
    sizes = block_sizes("target_aspect_ratio", count, aspect_ratio, half_even=False)
    return _block_mask(key, grid, num_targets, sizes)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _block_mask(
    key: jax.Array, grid: tuple[int, ...], num_targets: int, sizes: BlockSizes
) -> jax.Array:
    frame = grid[-2:]

    def block(bits: jax.Array) -> jax.Array:
        count_bits, aspect_bits, *corner_bits = bits
        size = clamp(draw_block(count_bits, aspect_bits, sizes), frame)
        return box(place(corner_bits, size, frame), size, frame)

    mask = random_union(
        key, frame, block, num_blocks=num_targets, words_per_block=4, largest=sizes.high
    )
    return jnp.broadcast_to(mask, grid)


def spatiotemporal_mask(
    key: jax.Array,
    grid: Grid,
    *,
    num_targets: int = 2,
    temporal_extent: tuple[int, int] = (2, 4),
    spatial_scale: Range = (0.1, 0.2),
) -> jax.Array:
    """Draws a target of tubes, each a square over a run of frames.

    A tube lasts a whole number of frames drawn from `temporal_extent`, then clamped to the grid's.
    Its square has a side of `round(sqrt(round(height * width * scale)))` tokens, clamped to each
    side of the grid (`round` is half away from zero). Its corner is uniform over every position
    that keeps it inside. If the tubes cover the whole grid, one uniformly random token is left out.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(frames, height, width)`, or `(height, width)` for a single frame; at least two
            tokens.
        num_targets: number of tubes, at least 1; they may overlap.
        temporal_extent: inclusive `(min, max)` of a tube's frames, whole numbers with
            `1 <= min <= max <= 2**24`.
        spatial_scale: `(min, max)` of the fraction of a frame in each tube's square,
            `0 < min <= max <= 1`.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number or a pair of them.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        `SpatiotemporalMasking` of the Rust module jepa-core, after Bardes et al. (2024),
        "Revisiting Feature Prediction for Learning Visual Representations from Video". For V-JEPA's
        own masks use `vjepa_mask`.

    Example:
        >>> mask = spatiotemporal_mask(jax.random.key(0), (8, 14, 14))
        >>> mask.shape, mask.dtype
        ((8, 14, 14), dtype('bool'))
    """
    key, grid = check_key(key), check_grid(grid)
    num_targets = check_count("num_targets", num_targets)
    extent = check_count_range("temporal_extent", temporal_extent, MAX_TOKENS)
    low, high = check_range("spatial_scale", spatial_scale)
    tokens = math.prod(grid[-2:])
    count = floor_uniform(tokens * low + 0.5, tokens * high + 0.5)
    return _spatiotemporal_mask(key, grid, num_targets, extent, count)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _spatiotemporal_mask(
    key: jax.Array,
    grid: tuple[int, ...],
    num_targets: int,
    temporal_extent: tuple[int, int],
    count: Uniform,
) -> jax.Array:
    video = (1, *grid)[-3:]
    shortest, longest = temporal_extent

    def tube(bits: jax.Array) -> jax.Array:
        extent_bits, count_bits, *corner_bits = bits
        frames = shortest + below(extent_bits, longest - shortest + 1)
        side = draw_square_side(count_bits, count)
        size = clamp((frames, side, side), video)
        return box(place(corner_bits, size, video), size, video)

    _, widest = square_sides(count)
    mask = random_union(
        key,
        video,
        tube,
        num_blocks=num_targets,
        words_per_block=5,
        largest=(longest, widest, widest),
    )
    return mask.reshape(grid)


def multi_block_mask(
    key: jax.Array, grid: Grid, *, mask_ratio: float = 0.5, num_blocks: int = 4
) -> jax.Array:
    """Draws a target of equal squares that hold the mask ratio together, before they overlap.

    Each block is a square of side `round(sqrt(n))`, clamped to each side of the grid, with
    `n = max(round(height * width * mask_ratio) // num_blocks, 1)` (`round` is half away from zero).
    Its corner is uniform over every position that keeps it inside. Blocks overlap, so the realised
    ratio is below `mask_ratio`; `clip_count` makes it exact. If the blocks cover the whole grid,
    one uniformly random token is left out.

    On a video grid each block reaches over all frames.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame that the blocks would hold without overlap, in `(0, 1)`.
        num_blocks: number of blocks, at least 1.

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
    key, grid = check_key(key), check_grid(grid, whole_frames=True)
    mask_ratio = check_fraction("mask_ratio", mask_ratio)
    num_blocks = check_count("num_blocks", num_blocks)
    count = max(math.floor(math.prod(grid[-2:]) * mask_ratio + 0.5) // num_blocks, 1)
    return _multi_block_mask(key, grid, num_blocks, round(math.sqrt(count)))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _multi_block_mask(
    key: jax.Array, grid: tuple[int, ...], num_blocks: int, side: int
) -> jax.Array:
    frame = grid[-2:]
    size = [min(side, part) for part in frame]

    def block(bits: jax.Array) -> jax.Array:
        return box(place(list(bits), size, frame), size, frame)

    mask = random_union(key, frame, block, num_blocks=num_blocks, words_per_block=2, largest=size)
    return jnp.broadcast_to(mask, grid)
