"""Random blocks, topped up to an exact count: the masks of BEiT, iBOT, DINOv2 and DINOv3."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _boxes, _check, _counts, _draws, _meshes, _sizes, _subsets, _tracing
from jepa_masks_jax._check import CountOrRange, Grid, Int, Range, Real

_TRIES = 24
"""The smallest count of tries that completes as few tokens at random as the authors' loops."""

_REJECTIONS = 10
"""Stop after this many consecutive rejected blocks."""

_PER_TOKEN = 16
"""Areas are sampled in 1/16 tokens."""

_UNROLL = 4
"""A loop of four tries a turn launches fewer kernels, and compiles in reasonable time."""


class _State(NamedTuple):
    mask: jax.Array
    missing: jax.Array
    """The count of tokens still to mask."""
    rejected: jax.Array
    """The count of blocks rejected since the last accepted one."""


def blockwise_mask(
    key: jax.Array,
    grid: Grid,
    *,
    mask_ratio: Real | Range | None = None,
    num_masked: CountOrRange | None = None,
    min_block: Int = 16,
    max_block: Int | None = None,
    aspect_ratio: Range = (0.3, 1 / 0.3),
) -> jax.Array:
    """Samples random blocks, topped up to an exact count, as BEiT and DINOv2 mask images.

    Masks `n` tokens in up to 24 tries, one after the other:

    1. Let `rest` be the count of tokens still to mask, and at most `max_block`.
    2. Sample an area uniformly between `min_block` and `rest`, and an aspect ratio `a`,
       log-uniform in `aspect_ratio`. The block is `round(sqrt(area * a))` tokens high and
       `round(sqrt(area / a))` wide (half to even).
    3. Place it uniformly over every position that keeps it inside the grid.
    4. Accept it if it is shorter and narrower than the grid and adds from 1 to `rest` tokens.

    After ten consecutive rejections, or all tries, random tokens complete the count.

    Args:
        key: a single PRNG key.
        grid: `(height, width)`, at least 2 along each side.
        mask_ratio: fraction of the tokens to mask, in `(0, 1)`, or a pair `(min, max)`, as in
            `random_mask`.
        num_masked: count of tokens to mask, from 1 to `tokens - 1`; a pair `(min, max)`, from which
            it is sampled uniformly, both included; or an integer array of shape (), traced or not,
            which is clamped into that range. Exactly one of `mask_ratio` and `num_masked` is given.
        min_block: minimum area of a block, from 1 to all tokens, so the default needs a grid of 16
            tokens. If `rest` is smaller, the area is between `rest` and `min_block`.
        max_block: maximum area of a block, from `min_block` to all tokens; None for no limit.
        aspect_ratio: `(min, max)` of height over width, `0 < min <= max`.

    Returns:
        bool[*grid] with exactly the requested count of True tokens.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or both or neither of
            `mask_ratio` and `num_masked` are given.
        ValueError: if an option is out of its range.

    Notes:
        Few blocks fit in a thin grid. On 4x128 with `mask_ratio=0.3, min_block=4` most tokens are
        therefore single random ones, and 28 % have no masked neighbor, as in the authors' code.
        There set `aspect_ratio` to that of the grid: with `(0.02, 0.3)` it is 0.5 %.

        Areas are sampled in sixteenths of a token, aspect ratios from 1,024 equally likely values.
        With the settings of BEiT, iBOT, DINOv2 and DINOv3 random completion adds 0.05 to 0.6 tokens
        to a mask on average. The authors' loops stop that many tokens short.

    Source:
        Bao et al. (2022), "BEiT: BERT Pre-Training of Image Transformers", section 2.3;
        `beit/masking_generator.py` of github.com/microsoft/unilm; `dinov3/data/masking.py` of
        github.com/facebookresearch/dinov3, which adds the random tokens and does not bound the
        tries.

    Example:
        >>> mask = blockwise_mask(jax.random.key(0), (14, 14), num_masked=75)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 75)
    """
    key, grid = _check.key(key), _check.grid(grid, (2,))
    if min(grid) < 2:
        raise ValueError(f"grid must be at least 2 along each side, got {grid}")
    tokens = math.prod(grid)
    masked = _counts.masked(mask_ratio, num_masked, tokens)
    min_block = _check_area("min_block", min_block, tokens)
    max_block = tokens if max_block is None else _check_area("max_block", max_block, tokens)
    if min_block > max_block:
        raise ValueError(f"min_block must be at most max_block, got {min_block} and {max_block}")
    aspect_ratio = _check.pair("aspect_ratio", aspect_ratio, _check.positive)

    @_tracing.jit
    def sample(key: jax.Array, masked: Any) -> jax.Array:
        words = _draws.random_words(key, 4 * _TRIES + tokens + 1)
        try_words, token_words, count_word = words[: 4 * _TRIES], words[4 * _TRIES : -1], words[-1]
        count = _counts.sample_masked(count_word, tokens, masked)
        aspect_words, *other_words = try_words.reshape(_TRIES, 4).T
        _, maximum = _counts.masked_range(tokens, masked)
        largest_area = max(min_block, min(max_block, int(maximum)))
        per_token = 4 * _PER_TOKEN * max(aspect_ratio[1], 1)
        unit = int(_sizes.aspect_unit("aspect_ratio", aspect_ratio, largest_area, per_token))
        # Rounding up may not leave int32: `traced_sides` multiplies by four areas.
        highest = _check.INT32_MAX // (4 * _PER_TOKEN * largest_area)
        aspect_table = np.minimum(np.rint(unit * _sizes.log_uniform(*aspect_ratio)), highest)
        aspects = _draws.entries(aspect_words, aspect_table.astype(np.int32))

        def try_block(state: _State, tried: tuple[jax.Array, ...]) -> tuple[_State, None]:
            aspect, area_word, *corner_words = tried
            rest = jnp.minimum(state.missing, max_block)
            smallest, largest = jnp.minimum(min_block, rest), jnp.maximum(min_block, rest)
            steps = _PER_TOKEN * (largest - smallest)
            area = _PER_TOKEN * smallest + _draws.below(area_word, steps)
            height, width = _sizes.traced_sides(area, aspect, unit, _PER_TOKEN)
            fits = (height > 0) & (height < grid[0]) & (width > 0) & (width < grid[1])
            new = _boxes.place_each(corner_words, (height, width), grid, grid) & ~state.mask
            num_new = jnp.sum(new, dtype=jnp.int32)
            accepted = fits & (num_new > 0) & (num_new <= rest) & (state.rejected < _REJECTIONS)
            return _State(
                state.mask | (new & accepted),
                state.missing - jnp.where(accepted, num_new, 0),
                jnp.where(accepted, 0, state.rejected + 1),
            ), None

        start = _State(jnp.zeros(grid, bool), count, jnp.int32(0))
        start = _State(*(_meshes.vary_as(initial, words, count) for initial in start))
        state, _ = lax.scan(try_block, start, (aspects, *other_words), unroll=_UNROLL)
        added = _subsets.random_subset(token_words, ~state.mask.reshape(-1), state.missing)
        return state.mask | added.reshape(grid)

    return sample(key, masked)


def _check_area(name: str, area: Any, tokens: int) -> int:
    hint = f" on {tokens} tokens; pass a smaller {name} if it is the default or a preset's"
    return _check.integer(name, area, 1, tokens, hint)
