"""The tokens with the highest scores."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _draws, _meshes, _subsets, _tracing
from jepa_masks_jax._check import Array, Count

_HIGHEST_BIT = np.uint32(2**31)


def top_mask(
    scores: Array, *, num_masked: Count, among: Array | None = None, key: jax.Array | None = None
) -> jax.Array:
    """Masks the tokens with the highest scores: attention, loss, nearness, or random weights.

    Exactly `num_masked` tokens are True. NaN is below all other scores. If tokens with equal scores
    do not all fit and a `key` is given, a random subset of them is masked, every subset equally
    likely. Without a key, the first ones in row-major order are masked. That favors the top of an
    image wherever scores are often equal, as with distances, counts, or nearly uniform attention in
    bfloat16.

    Args:
        scores: `[*grid]`: floats of at most 32 bits, or int32 or uint32 and narrower integers. One
            map: a batch would be read as a grid.
        num_masked: count of tokens to mask, from 0 to all; or an integer array of shape (), traced
            or not, which is clamped between 0 and the count of eligible tokens.
        among: bool[*grid], traced or not: the eligible tokens. All if None.
        key: a single PRNG key, to choose among equal scores at random. None takes the first ones.

    Returns:
        bool[*grid] with exactly `num_masked` True tokens, or all of `among` if it has fewer.

    Raises:
        TypeError: if `scores` is not an array of these types, `num_masked` is not an integer, or
            `key` is neither a key nor None.
        ValueError: if `num_masked` is out of its range, if `among` differs in shape from `scores`,
            or if `scores` has no axis.

    Notes:
        `-0.0` ties with `0.0`. Subnormal numbers keep their order.

    Source:
        Kakogeorgiou et al. (2022), "What to Hide from Your Students: Attention-Guided Masked Image
        Modeling" masks the most attended tokens; Chang et al. (2022), "MaskGIT: Masked Generative
        Image Transformer" masks the least confident ones.

    Example:
        >>> top_mask(jnp.array([0.1, 0.7, 0.4, 0.7]), num_masked=3).tolist()
        [False, True, True, True]

        Attention-guided masks, and HPM's tokens of highest loss, filled up with random ones:

        >>> import jepa_masks_jax as jm
        >>> key, noise_key = jax.random.split(jax.random.key(0))
        >>> scores = jax.random.uniform(noise_key, (14, 14))
        >>> attended = jm.top_mask(scores, num_masked=118)
        >>> filled = jm.clip_count(key, jm.top_mask(scores, num_masked=40), exactly=147)
        >>> int(attended.sum()), int(filled.sum())
        (118, 147)

        The nearest tokens to a random one, where many are equally near:

        >>> center = jm.random_mask(key, (14, 14), num_masked=1)
        >>> near = jm.top_mask(-jm.squared_distance(center), num_masked=50, key=noise_key)
        >>> bool(near[center][0]), int(near.sum())
        (True, 50)

        Weighted sampling without replacement:

        >>> gumbel = jax.random.gumbel(key, (14, 14))
        >>> weighted = jm.top_mask(jnp.log(scores) + gumbel, num_masked=98)

        MaskGIT's schedule, whose count is traced and can be all tokens:

        >>> count = jnp.ceil(196 * jnp.cos(jnp.pi / 2 * 0.25)).astype(jnp.int32)
        >>> int(jm.top_mask(-jnp.log(scores) + gumbel, num_masked=count).sum())
        182
    """
    _check.refuse_foreign("scores", scores)
    dtype, shape = getattr(scores, "dtype", np.dtype(bool)), getattr(scores, "shape", ())
    is_number = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
    if not is_number or dtype.itemsize > 4:
        raise TypeError(
            "scores must be an array of floats or integers of at most 32 bits, got "
            f"{_check.brief(scores)}"
        )
    if not shape or 0 in shape:
        raise ValueError(f"scores must have axes, none of length 0, got shape {shape}")
    among = _check.among(among, shape)
    num_masked = _check.count("num_masked", num_masked, 0, math.prod(shape))

    @_tracing.jit
    def sample(
        scores: Any, num_masked: Any, among: jax.Array | None, key: jax.Array | None
    ) -> jax.Array:
        words = _descending_words(scores.reshape(-1))
        everything = _meshes.vary_as(jnp.ones(words.shape, bool), words)
        pool = everything if among is None else among.reshape(-1)
        eligible = jnp.sum(pool, dtype=jnp.int32)
        count = _check.clamp(num_masked, 0, eligible)
        mask = _subsets.lowest(words, pool, count)
        if key is not None:
            last_word = jnp.max(jnp.where(mask, words, jnp.uint32(0)))
            tied = pool & (words == last_word)
            num_tied = jnp.sum(mask & tied, dtype=jnp.int32)
            chosen = _subsets.random_subset(_draws.random_words(key, words.size), tied, num_tied)
            mask = jnp.where(tied, chosen, mask)
        return mask.reshape(scores.shape)

    return sample(scores, num_masked, among, None if key is None else _check.key(key))


def _descending_words(scores: jax.Array) -> jax.Array:
    """Makes words that fall as the scores rise: uint32, the highest for NaN.

    Scores are read by their bits, because XLA compares subnormal floats as zeros.
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        ascending = scores.astype(jnp.uint32)
        if jnp.issubdtype(scores.dtype, jnp.signedinteger):
            ascending = ascending ^ _HIGHEST_BIT
        return ~ascending
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    bits = jnp.where(bits == _HIGHEST_BIT, jnp.uint32(0), bits)
    ascending = jnp.where(bits < _HIGHEST_BIT, bits | _HIGHEST_BIT, ~bits)
    is_nan = (bits & ~_HIGHEST_BIT) > np.uint32(0x7F800000)
    return jnp.where(is_nan, jnp.uint32(0xFFFFFFFF), ~ascending)
