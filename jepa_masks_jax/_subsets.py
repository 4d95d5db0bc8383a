"""The exact subset: of a pool of tokens those with the lowest words, ties in row-major order.

Two ways give the same subset, to the bit: two sorts, which are few kernels on an accelerator, and a
bisection, which is ten times as fast on a CPU.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _tracing

_OUTSIDE = 0xFFFFFFFF
"""The word of a token outside the pool."""


def random_subset(words: jax.Array, pool: jax.Array, count: jax.Array) -> jax.Array:
    """Picks uniformly random tokens of a pool: those whose priorities are lowest.

    Priorities have 31 bits, so that none is the word of the tokens outside.

    Args:
        words: uint32[tokens], a random word for each.
        pool: bool[tokens], the tokens to pick from.
        count: int32[], at most the pool's.

    Returns:
        bool[tokens].
    """
    return _lowest(jnp.where(pool, words >> 1, jnp.uint32(_OUTSIDE)), None, count)


def lowest(words: jax.Array, pool: jax.Array, count: jax.Array) -> jax.Array:
    """Picks the tokens of a pool with the lowest words, of all 32 bits, as `random_subset`."""
    return _lowest(jnp.where(pool, words, jnp.uint32(_OUTSIDE)), pool, count)


def _lowest(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        words, pool, count, cpu=lowest_by_bisection, default=lowest_by_sorting
    )


def lowest_by_sorting(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    """Ranks all words by two sorts, the second of which undoes the first.

    `pool` is given if a word of the pool can be that of the tokens outside, which then follow it.
    """
    number = lax.iota(jnp.int32, words.size)
    keys = (words,) if pool is None else (words, ~pool)
    *_, order = lax.sort((*keys, number), num_keys=len(keys), is_stable=True)
    _, rank = lax.sort((order, number), num_keys=1)
    return rank < count


def lowest_by_bisection(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    """Finds the word up to which all are picked, then among equal words the token."""
    threshold = _threshold(words, count, bits=31 if pool is None else 32)
    below = words < threshold
    missing = count - jnp.sum(below, dtype=jnp.int32)
    number = lax.iota(jnp.uint32, words.size)
    is_equal = words == threshold if pool is None else (words == threshold) & pool
    equal = jnp.where(is_equal, number, jnp.uint32(_OUTSIDE))
    return below | (equal < _threshold(equal, missing, bits=words.size.bit_length()))


def _threshold(words: jax.Array, count: jax.Array, *, bits: int) -> jax.Array:
    """Finds, bit by bit, the largest word below which there are at most `count`: uint32[]."""
    # A CPU adds up floats in half the time, and they hold whole numbers up to 2**24.
    dtype = jnp.float32 if words.size <= 2**24 else jnp.int32

    def try_bit(threshold: jax.Array, bit: jax.Array) -> tuple[jax.Array, None]:
        higher = threshold | bit
        fits = jnp.sum(words < higher, dtype=dtype) <= count.astype(dtype)
        return jnp.where(fits, higher, threshold), None

    start = _tracing.vary_as(count, _tracing.vary_as(words, jnp.uint32(0)))
    highest_first = jnp.uint32(1) << lax.iota(jnp.uint32, bits)[::-1]
    threshold, _ = lax.scan(try_bit, start, highest_first)
    return threshold
