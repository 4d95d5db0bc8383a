"""Random subsets of exact size, subsets by score, and what is made of them.

A subset holds the tokens of a pool with the lowest words, ties in row-major order. Two ways give
the same one, to the bit: two sorts, which are few kernels on an accelerator, and a bisection, which
is ten times as fast on a CPU.

The masks of every key depend on which words are the lowest and on the 31 bits of a random word that
count, so both are as public as names.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _draws, _meshes, _tracing
from jepa_masks_jax._check import Array, Count

_OUTSIDE = 0xFFFFFFFF
"""The word of a token outside the pool."""


def random_subset(words: jax.Array, pool: jax.Array, count: jax.Array) -> jax.Array:
    """Picks uniformly random tokens of a pool: those with the lowest words.

    Of a random word 31 bits count, so that none is the word of the tokens outside.

    Args:
        words: uint32[tokens], a random word for each.
        pool: bool[tokens], the tokens to pick from.
        count: int32[], at most the pool's.

    Returns:
        bool[tokens].
    """
    words = jnp.where(pool, words >> 1, jnp.uint32(_OUTSIDE))
    return _of_lowest_words(words, None, count)


def lowest(words: jax.Array, pool: jax.Array, count: jax.Array) -> jax.Array:
    """Picks the tokens of a pool with the lowest words, of all 32 bits, as `random_subset`."""
    return _of_lowest_words(jnp.where(pool, words, jnp.uint32(_OUTSIDE)), pool, count)


def _of_lowest_words(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    """Picks the lowest words; a pool is given if words in it may be that of the tokens outside."""
    ways = {"cpu": lowest_by_bisection, "default": lowest_by_sorting}
    return lax.platform_dependent(words, pool, count, **ways)


def lowest_by_sorting(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    """Ranks all words by two sorts, the second of which undoes the first."""
    number = lax.iota(jnp.int32, words.size)
    keys = (words,) if pool is None else (words, ~pool)
    *_, order = lax.sort((*keys, number), num_keys=len(keys), is_stable=True)
    _, rank = lax.sort((order, number), num_keys=1)
    return rank < count


def lowest_by_bisection(words: jax.Array, pool: jax.Array | None, count: jax.Array) -> jax.Array:
    """Finds the word below which all are picked, then among those equal to it the token."""
    word = _threshold(words, count, bits=31 if pool is None else 32)
    below, is_equal = words < word, words == word
    if pool is not None:
        is_equal &= pool
    number = lax.iota(jnp.uint32, words.size)
    equal = jnp.where(is_equal, number, jnp.uint32(_OUTSIDE))
    missing = count - jnp.sum(below, dtype=jnp.int32)
    return below | (equal < _threshold(equal, missing, bits=words.size.bit_length()))


def _threshold(words: jax.Array, count: jax.Array, *, bits: int) -> jax.Array:
    """Finds, bit by bit, the largest word below which there are at most `count`: uint32[]."""
    # Counted in floats, which a CPU adds up in half the time and which are exact up to 2**24.
    dtype = jnp.float32 if words.size <= 2**24 else jnp.int32

    def try_bit(threshold: jax.Array, bit: jax.Array) -> tuple[jax.Array, None]:
        higher = threshold | bit
        fits = jnp.sum(words < higher, dtype=dtype) <= count.astype(dtype)
        return jnp.where(fits, higher, threshold), None

    start = _meshes.vary_as(jnp.uint32(0), words, count)
    highest_first = jnp.uint32(1) << lax.iota(jnp.uint32, bits)[::-1]
    threshold, _ = lax.scan(try_bit, start, highest_first)
    return threshold


def at_places(places: jax.Array, size: int) -> jax.Array:
    """Marks places, of which `size` is none: int32[n] to bool[size]."""
    none = _meshes.vary_as(jnp.zeros(size + 1, bool), places)
    return none.at[places].set(True, mode="promise_in_bounds")[:-1]


def clip_count(
    key: jax.Array,
    mask: Array,
    *,
    exactly: Count | None = None,
    minimum: Count = 0,
    maximum: Count | None = None,
    among: Array | None = None,
) -> jax.Array:
    """Adds or removes single random tokens, so that the count of True ones is exact or bounded.

        count > maximum    remove random tokens of the mask
        count < minimum    add random tokens of `among`, until none are left
        otherwise          return the mask unchanged

    Every subset of the right size is equally likely to be removed or added, so that tokens added to
    a block may stand alone: `top_mask` adds the nearest ones instead.

    Args:
        key: a single PRNG key.
        mask: bool[*grid] with one axis or more. One mask: a batch would be read as a grid.
        exactly: both bounds at once, from 0 to all tokens; excludes `minimum` and `maximum`.
        minimum: minimum of True tokens, from 0 to `maximum`.
        maximum: maximum of True tokens, from 0 to all tokens; all tokens if None. Each bound may be
            an integer array of shape (), traced or not, and so follow a schedule: it is clamped
            into `[0, tokens]`, and if `maximum < minimum`, `maximum` applies.
        among: bool[*grid], the tokens that may be added; any if None. For a context give
            `~targets.any(0)`, or target tokens may be added; for a sample smaller than the grid
            `inside(grid, within) & ~targets.any(0)`, or padding may be added too.

    Returns:
        bool[*grid]. If `among` has too few tokens to add, the count stays below the minimum, even
        with `exactly`. So list the mask with `token_indices`, and use `valid`.

    Raises:
        TypeError: if `key` is not a key, a mask is not boolean, a bound is not an integer, or
            `exactly` is given with another bound.
        ValueError: if a bound is out of its range, or if the shapes differ.

    Example:
        >>> import jepa_masks_jax as jm
        >>> mask_key, clip_key = jax.random.split(jax.random.key(0))
        >>> context, targets = jm.ijepa_masks(mask_key, (14, 14))
        >>> context = jm.clip_count(clip_key, context, exactly=64, among=~targets.any(0))
        >>> int(context.sum())
        64

        A context, a target and tokens in neither: 60 random tokens, then 80 of the others.

        >>> nothing = jnp.zeros((14, 14), bool)
        >>> context = jm.clip_count(mask_key, nothing, exactly=60)
        >>> target = jm.clip_count(clip_key, nothing, exactly=80, among=~context)
        >>> int(context.sum()), int(target.sum()), bool((context & target).any())
        (60, 80, False)
    """
    key, mask = _check.key(key), _check.mask("mask", mask)
    among = _check.among(among, mask.shape)
    if exactly is not None:
        if maximum is not None or not (isinstance(minimum, int) and minimum == 0):
            raise TypeError("exactly must not be given together with minimum or maximum")
        count = _check.count("exactly", exactly, 0, mask.size)
        return clip(key, mask, among, count, count)
    maximum = mask.size if maximum is None else _check.count("maximum", maximum, 0, mask.size)
    minimum = _check.count("minimum", minimum, 0, mask.size)
    if isinstance(minimum, int) and isinstance(maximum, int) and minimum > maximum:
        raise ValueError(f"minimum must be at most maximum, got {minimum} and {maximum}")
    return clip(key, mask, among, minimum, maximum)


@_tracing.jit
def clip(
    key: jax.Array, mask: jax.Array, among: jax.Array | None, minimum: Any, maximum: Any
) -> jax.Array:
    """Clips a count: `clip_count` without its checks."""
    minimum, maximum = (_check.clamp(bound, 0, mask.size) for bound in (minimum, maximum))
    chosen = mask.reshape(-1)
    others = ~chosen if among is None else among.reshape(-1) & ~chosen
    count = jnp.sum(chosen, dtype=jnp.int32)
    too_many = count > maximum
    pool = jnp.where(too_many, chosen, others)
    max_added = jnp.minimum(jnp.sum(others, dtype=jnp.int32), maximum - count)
    added = jnp.maximum(jnp.minimum(minimum - count, max_added), 0)
    picked = random_subset(
        _draws.random_words(key, mask.size), pool, jnp.where(too_many, maximum, added)
    )
    return jnp.where(too_many, picked, chosen | picked).reshape(mask.shape)


def top_up(context: jax.Array, allowed: jax.Array, min_keep: int, word: jax.Array) -> jax.Array:
    """Adds allowed tokens, cyclically from a uniformly random one, until there are `min_keep`."""
    free = allowed & ~context
    num_free = jnp.sum(free, dtype=jnp.int32)
    missing = min_keep - jnp.sum(context, dtype=jnp.int32)
    from_first = _count_before(free) - _draws.below(word, num_free)
    from_first = jnp.where(from_first < 0, from_first + num_free, from_first)
    return context | free & (from_first < missing)


def _count_before(mask: jax.Array) -> jax.Array:
    """Counts the True tokens before each one in row-major order: bool[*grid] to int32[*grid].

    Rows are packed into words of 32 tokens, because a cumulative sum over tokens takes several
    times as long as all the rest of a mask on a CPU. A mesh with explicit axes refuses reshapes
    that merge and split axes at once.
    """
    width = mask.shape[-1]
    per_word = min(width, 32)
    rows = jnp.pad(mask.reshape(-1, width), ((0, 0), (0, -width % per_word)))
    tokens = rows.reshape(len(rows), -1, per_word)
    bit = lax.broadcasted_iota(jnp.uint32, tokens.shape, 2)
    word = jnp.sum(tokens.astype(jnp.uint32) << bit, axis=2, dtype=jnp.uint32)
    in_word = lax.population_count(word[..., None] & ((jnp.uint32(1) << bit) - 1))
    count = lax.population_count(word)
    flat = count.reshape(-1)
    before_word = (jnp.cumsum(flat, dtype=jnp.uint32) - flat).reshape(count.shape)
    before = (before_word[..., None] + in_word).astype(jnp.int32)
    return before.reshape(rows.shape)[:, :width].reshape(mask.shape)
