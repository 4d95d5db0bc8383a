"""Blocks until the count is exact: the masks of BEiT, iBOT, DINOv2 and DINOv3."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _draws, _sizes, _subsets

_TRIES = 24
"""The fewest with which as many tokens are left to random completion as by the authors' loops."""

_REFUSALS = 10
"""In a row, after which no more blocks are added."""

_PARTS = 16
"""To a token: the area of a block is drawn in such parts."""


_State = tuple[jax.Array, jax.Array, jax.Array]
"""The mask, the tokens that are missing, and the blocks refused in a row."""


def blockwise_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    mask_ratio: float | _check.Range | None = None,
    num_masked: _check.Count | tuple[int, int] | None = None,
    min_block: int = 16,
    max_block: int | None = None,
    aspect_ratio: _check.Range = (0.3, 1 / 0.3),
) -> jax.Array:
    """Draws blocks of random sizes until an exact number of tokens is masked.

    There are 24 tries, one after the other. With `rest` tokens still to mask, and at most
    `max_block`, a try draws an area `n` uniformly between `min_block` and `rest`, to a
    sixteenth of a token, and an aspect ratio `a`, one of 1,024 equally likely values of a
    log-uniform distribution. Its block is `round(sqrt(n * a))` tokens high and `round(sqrt(n / a))`
    wide (half to even), and its corner is uniform over every position that keeps it inside. A block
    as high or as wide as the grid is refused, and so is one that adds no token or more than `rest`.
    After ten refused blocks in a row, or all tries, uniformly random tokens make up the count: as
    many as in the authors' loops, 0.05 to 0.6 a mask on average with the settings of BEiT, iBOT,
    DINOv2 and DINOv3.

    A batch of DINOv3 masks half of its `B` crops, each with another count:

        ratios = np.linspace(0.1, 0.5, B // 2 + 1)[1:]
        counts = np.append(tokens * ratios, np.zeros(B - B // 2)).astype(np.int32)
        counts = jax.random.permutation(count_key, counts)
        draw = lambda key, count: jm.blockwise_mask(key, grid, num_masked=count, min_block=4)
        masks = jax.vmap(draw)(keys, counts) & (counts > 0)[:, None, None]

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)`, at least 2 along each side.
        mask_ratio: fraction of the tokens in the target, in `(0, 1)`, or a pair `(min, max)`, as in
            `random_mask`.
        num_masked: number of targets, from 1 to `tokens - 1`, an inclusive pair `(min, max)`, or an
            integer array of shape (), traced or not, which is clamped into that range. Exactly one
            of `mask_ratio` and `num_masked` is given.
        min_block: least area of a block, from 1 to all tokens, so that the default needs a grid of
            16; less where fewer are missing.
        max_block: greatest area of a block, from `min_block` to all tokens; all that are missing if
            None.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`. For blocks of up to `n`
            tokens (`max_block`), `n * max(1, max) / min(1, min)` can be up to about 2**19.

    Returns:
        bool[*grid] with exactly the count of targets.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or none of
            `mask_ratio` and `num_masked` are given.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        Bao et al. (2022), "BEiT: BERT Pre-Training of Image Transformers", section 2.3;
        `beit/masking_generator.py` of github.com/microsoft/unilm; `dinov3/data/masking.py` of
        github.com/facebookresearch/dinov3, which adds the random tokens. There the number of tries
        has no bound.

    Example:
        >>> mask = blockwise_mask(jax.random.key(0), (14, 14), num_masked=75)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 75)
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(2,))
    if min(grid) < 2:
        raise ValueError(f"grid must be at least 2 along each side, got {grid}")
    tokens = math.prod(grid)
    array, count_range = _check.exact_count(mask_ratio, num_masked, tokens)
    min_block = _check.count("min_block", min_block, 1, tokens)
    largest = tokens if max_block is None else _check.count("max_block", max_block, 1, tokens)
    if min_block > largest:
        raise ValueError(f"min_block must be at most max_block, got {min_block} and {largest}")
    ratio = _check.real_range("aspect_ratio", aspect_ratio, high=None)
    most = max(min_block, min(largest, count_range[1]))
    unit = _sizes.aspect_unit("aspect_ratio", ratio, most, 4 * _PARTS * max(ratio[1], 1))
    plan = _Plan(count_range, min_block, largest, ratio, unit)
    return _blockwise_mask(key, array, grid, plan)


class _Plan(NamedTuple):
    count_range: tuple[int, int]
    min_block: int
    max_block: int
    aspect_ratio: tuple[float, float]
    unit: int
    """Steps to one of an aspect ratio."""


def _aspects(plan: _Plan) -> np.ndarray:
    """Returns the equally likely aspect ratios, in steps: int32[n]."""
    return np.rint(plan.unit * _sizes.log_uniform(*plan.aspect_ratio)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _blockwise_mask(
    key: jax.Array, num_masked: jax.Array | None, grid: tuple[int, int], plan: _Plan
) -> jax.Array:
    draws = _draws.random_draws(key, 4 * _TRIES + math.prod(grid) + 1)
    count = _subsets.clamp_or_draw_count(draws[-1], num_masked, plan.count_range)
    aspect_draws, *other_draws = draws[: 4 * _TRIES].reshape(_TRIES, 4).T
    aspect = _draws.entry_of(aspect_draws, _aspects(plan))

    def try_block(state: _State, one_try: tuple[jax.Array, ...]) -> tuple[_State, None]:
        mask, missing, refused = state
        aspect, area_draw, *corner_draws = one_try
        rest = jnp.minimum(missing, plan.max_block)
        smallest, largest = jnp.minimum(plan.min_block, rest), jnp.maximum(plan.min_block, rest)
        area = _PARTS * smallest + _draws.whole_below(area_draw, _PARTS * (largest - smallest))
        size = _sizes.traced_sides(area, aspect, plan.unit, _PARTS)
        fits = (size[0] < grid[0]) & (size[1] < grid[1])
        start = _boxes.place(corner_draws, size, grid)
        new = _boxes.each_box(start, size, grid) & ~mask
        num_new = jnp.sum(new, dtype=jnp.int32)
        accepted = fits & (num_new > 0) & (num_new <= rest) & (refused < _REFUSALS)
        missing = missing - jnp.where(accepted, num_new, 0)
        return (mask | (new & accepted), missing, jnp.where(accepted, 0, refused + 1)), None

    # Varies as the draws and the count do, which shard_map asks of a carry.
    zero = (draws[0] & 0).astype(jnp.int32) + (count & 0)
    state = jnp.broadcast_to(zero != 0, grid), count + zero, zero
    (mask, missing, _), _ = lax.scan(try_block, state, (aspect, *other_draws), unroll=4)
    added = _subsets.random_subset(draws[4 * _TRIES : -1], ~mask.reshape(-1), missing)
    return mask | added.reshape(grid)
