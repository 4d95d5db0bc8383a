"""Rectangles that share a scale: `BlockMasking` of jepa-rs."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _boxes, _check, _sizes


def block_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_targets: int = 4,
    target_scale: _check.Range = (0.15, 0.2),
    target_aspect_ratio: _check.Range = (0.75, 1.5),
) -> jax.Array:
    """Draws a target of rectangular blocks that share the target scale.

    The blocks share `target_scale`, they do not each have it. For I-JEPA's published setting, where
    each does, use `ijepa_masks`.
    With `n = round(height * width * scale / num_targets)` a block is
    `h = round(sqrt(n * aspect))` tokens high and `max(n // h, 1)` wide (1 if `h` is 0), then both
    are clamped to the grid (`round` is half away from zero). Its corner is uniform over every
    position that keeps it inside. If the blocks cover the whole grid, one uniformly random token is
    left out.

    On a video grid the mask is repeated in every frame. A block is clamped to a thin grid, and so
    holds fewer tokens there than its scale says.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens in a frame.
        num_targets: number of blocks, from 1 to 2**16; they may overlap.
        target_scale: `(min, max)` of the fraction of a frame that the blocks share,
            `0 < min <= max <= 1`.
        target_aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. For blocks of up
            to `n` tokens, `n * max(1, max, max / min) / min(1, min)` can be up to about 2**23.

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
    key, grid = _check.key(key), _check.grid(grid, whole_frames=True)
    num_targets = _check.block_count("num_targets", num_targets)
    low, high = _check.real_range("target_scale", target_scale)
    aspect_ratio = _check.real_range("target_aspect_ratio", target_aspect_ratio, high=None)
    tokens = math.prod(grid[-2:])
    counts = _sizes.whole_steps(tokens * low / num_targets + 0.5, tokens * high / num_targets + 0.5)
    _, most = _sizes.least_and_most(counts)
    aspects = _sizes.aspect_range("target_aspect_ratio", aspect_ratio, most)
    return _block_mask(key, grid, _Plan(num_targets, counts, aspects))


class _Plan(NamedTuple):
    num_targets: int
    counts: _sizes.Steps
    aspects: _sizes.Steps

    @property
    def largest(self) -> tuple[int, int]:
        """A height and a width that no block exceeds."""
        fewest, most = _sizes.least_and_most(self.counts)
        lowest = _sizes.rounded_sqrt(4 * fewest * self.aspects.first, self.aspects.unit)
        highest = _sizes.rounded_sqrt(4 * most * self.aspects.last, self.aspects.unit)
        return highest, most // max(lowest, 1)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _block_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    def draw_size(count_draws: jax.Array, aspect_draws: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = _sizes.draw_whole(count_draws, plan.counts)
        aspect = _sizes.draw_steps(aspect_draws, plan.aspects)
        height = _sizes.traced_rounded_sqrt(4 * count * aspect, jnp.int32(plan.aspects.unit))
        width = lax.div(count, jnp.maximum(height, 1))
        return height, jnp.where(height > 0, width, 1)

    mask = _boxes.random_union(
        key,
        grid[-2:],
        draw_size,
        num_boxes=plan.num_targets,
        size_draws=2,
        largest=plan.largest,
    )
    return jnp.broadcast_to(mask, grid)
