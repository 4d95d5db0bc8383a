"""Random subsets and clipped counts are exact and uniform, in both ways of picking tokens."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from modes import x64
from sampling import CHANCE, assert_every_subset_is_equally_likely, counts, random_masks, sampled
from scipy import stats
from transcription import clip_count, keys_and_words

import jepa_masks_jax as jm
from jepa_masks_jax._draws import random_words
from jepa_masks_jax._subsets import lowest_by_bisection, lowest_by_sorting, random_subset

_WAYS = (lowest_by_sorting, lowest_by_bisection)
_OUTSIDE = 2**32 - 1  # what stands for the word of a token outside the pool


def lowest(words, pool, count):
    """The tokens of the pool with the lowest words, equal ones in row-major order."""
    order = sorted((int(words[token]), token) for token in np.flatnonzero(pool).tolist())
    picked = np.zeros(len(pool), bool)
    picked[[token for _, token in order[:count]]] = True
    return picked


def subset(words, pool, count):
    """The tokens of the pool with the lowest of the first 31 bits."""
    return lowest(words >> 1, pool, count)


def examples(tokens, number, seed):
    """Words, pools and counts: few and many equal words, the extremes, the pool's ends."""
    rng = np.random.default_rng([seed, tokens])
    words = rng.integers(0, 2**32, (number, tokens), np.uint32)
    kind = np.arange(number) % 5
    words[kind == 1] >>= 30  # 2-bit words
    words[kind == 2] |= np.uint32(2**32 - 4)  # the highest words, the last of 31 bits among them
    words[kind == 3] = rng.choice(np.array([0, 2**32 - 1], np.uint32), words[kind == 3].shape)
    pool = rng.random((number, tokens)) < rng.choice([0, 0.3, 0.7, 1], (number, 1))
    size = pool.sum(1)
    count = rng.integers(0, size + 1)
    count = np.where(rng.random(number) < 0.2, size, count)
    return words, pool, count.astype(np.int32)


def small_cases():
    """Every count of every pool of five tokens, for words that are extreme, equal or in any order.

    A word of all bits is that of a token outside the pool, which the pool comes before.
    """
    words = [[0, 1, 2, 3, 2**32 - 1], [2**32 - 1] * 5, [0] * 5, [9, 5, 9, 5, 1]]
    words += [[2**32 - 1, 5, 2**32 - 1, 0, 2**32 - 1], [2**31, 2**32 - 2, 2**32 - 1, 0, 2**32 - 2]]
    pools = np.array(list(itertools.product([False, True], repeat=5)))
    found = [
        (of, pool, count)
        for of in np.array(words, np.uint32)
        for pool in pools
        for count in range(pool.sum() + 1)
    ]
    words, pool, count = map(np.array, zip(*found, strict=True))
    return words, pool, count.astype(np.int32)


@jax.jit
@jax.vmap
def every_way(words, pool, count):
    """By 31 bits without a pool, and by all bits with it, in both ways."""
    high = jnp.where(pool, words >> 1, jnp.uint32(_OUTSIDE))
    full = jnp.where(pool, words, jnp.uint32(_OUTSIDE))
    of_31_bits = [random_subset(words, pool, count), *(way(high, None, count) for way in _WAYS)]
    return of_31_bits, [way(full, pool, count) for way in _WAYS]


_TOKENS = [3, 4, 6, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65]


@pytest.mark.parametrize("tokens", [1, 2, 5, 32, *map(slow, _TOKENS)])
def test_every_way_picks_the_lowest_words_to_the_bit(tokens):
    found = examples(tokens, 200, 0)
    if tokens == 5:
        found = tuple(map(np.concatenate, zip(found, small_cases(), strict=True)))
    for masks, definition in zip(every_way(*found), (subset, lowest), strict=True):
        expected = [definition(*case) for case in zip(*found, strict=True)]
        for picked in masks:
            assert picked.dtype == jnp.bool_
            np.testing.assert_array_equal(picked, expected)


@pytest.mark.parametrize(("pool", "count"), [("111111", 3), ("1011010110", 3), ("11111", 1)])
def test_every_subset_of_the_pool_is_equally_likely(pool, count):
    pool = np.array([token == "1" for token in pool])

    def draw(key, tokens):
        return random_subset(random_words(key, tokens), pool, jnp.int32(count))

    masks = sampled(draw, pool.size, keys=20_000)
    assert counts(masks) == {count}
    assert_every_subset_is_equally_likely(masks, pool)


def without_pool(way, words, count):
    return way(words, None, count)


def _scanned(way, words, count):
    return jax.lax.scan(lambda carry, x: (carry, way(*x)), 0, (words, count))[1]


_TRANSFORMATIONS = {
    "vmap": lambda way, words, count: jax.vmap(way)(words, count),
    "vmap-words": lambda way, words, count: jax.vmap(way, (0, None))(words, count[0]),
    "vmap-count": lambda way, words, count: jax.vmap(way, (None, 0))(words[0], count),
    "vmap-twice": lambda way, words, count: jax.vmap(jax.vmap(way, (None, 0)), (0, None))(
        words, count
    ),
    "scan": _scanned,
    "alone": lambda way, words, count: way(words[0], count[0]),
}


@pytest.mark.parametrize(
    "enable_x64",
    [pytest.param(False, id="32", marks=pytest.mark.slow), pytest.param(True, id="64")],
)
def test_both_ways_are_the_same_under_every_transformation(enable_x64):
    tokens, number = 9, 6
    draws, _, _ = examples(tokens, number, 1)
    counts = np.array([4, 0, 9, 2, 7, 5], np.int32)

    def picks(i, j):
        return subset(draws[i], np.ones(tokens, bool), counts[j])

    each = range(number)
    expected = {
        "vmap": [picks(i, i) for i in each],
        "vmap-words": [picks(i, 0) for i in each],
        "vmap-count": [picks(0, j) for j in each],
        "vmap-twice": [[picks(i, j) for j in each] for i in each],
        "scan": [picks(i, i) for i in each],
        "alone": picks(0, 0),
    }
    ways = (
        *(functools.partial(without_pool, way) for way in _WAYS),
        lambda words, count: random_subset(words << 1, words < jnp.uint32(2**31), count),
    )

    def run(words, counts):
        return {
            name: [transformed(way, words, counts) for way in ways]
            for name, transformed in _TRANSFORMATIONS.items()
        }

    with x64(enable_x64):
        got = jax.jit(run)(jnp.asarray(draws >> 1), jnp.asarray(counts))
    for name, masks in got.items():
        for mask in masks:
            assert mask.dtype == jnp.bool_
            np.testing.assert_array_equal(mask, expected[name], err_msg=name)


# Clipped counts

TWO_THIRDS = np.arange(66).reshape(2, 3, 11) % 3 > 0


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((2,), {"minimum": 1, "maximum": 1}),
        ((4, 9), {"minimum": 12, "maximum": 20}),
        ((2, 3, 11), {"minimum": 40, "maximum": 50, "among": TWO_THIRDS}),
        ((3, 3), {"exactly": 0}),
        ((3, 3), {"exactly": 9}),
    ],
    ids=["two-tokens", "image", "among", "none", "all"],
)
def test_clip_count_is_its_definition(grid, options):
    keys, words = keys_and_words(21, 300)
    masks = random_masks(21, grid, 300)
    clipped = jax.jit(jax.vmap(functools.partial(jm.clip_count, **options)))(keys, masks)
    for i in range(300):
        expected = clip_count(words[i], masks[i], **options)
        np.testing.assert_array_equal(clipped[i], expected, err_msg=f"key {i}")


def test_clip_count_adds_nothing_outside_among_and_stops_when_it_runs_out():
    mask, among = np.zeros((2, 4, 40), bool)
    mask[0, :3] = True
    among[:, :2] = True
    clipped = sampled(jm.clip_count, mask, minimum=100, among=among)
    np.testing.assert_array_equal(clipped, np.broadcast_to(mask | among, clipped.shape))


@pytest.mark.parametrize("among", [[True], [True] * 3, [False, True, False, True]], ids=str)
def test_clip_count_takes_the_whole_pool_where_it_has_to(among):
    nothing, options = np.zeros(len(among), bool), {"minimum": len(among)}
    if not all(among):
        options["among"] = np.array(among)
    masks = sampled(jm.clip_count, nothing, keys=20_000, **options)
    np.testing.assert_array_equal(masks, np.broadcast_to(among, masks.shape))


@pytest.mark.slow
def test_a_count_is_exact_beyond_what_float32_counts():
    clipped = jm.clip_count(jax.random.key(0), np.zeros(2**24 + 64, bool), exactly=2**24 + 3)
    assert np.asarray(clipped).sum() == 2**24 + 3  # 2**24 + 4 in float32


@pytest.mark.slow
def test_clip_count_leaves_every_subset_equally_likely_when_it_removes():
    mask = np.arange(40).reshape(2, 20) % 5 == 2
    mask[1, 18] = True  # 9 tokens in two words
    clipped = sampled(jm.clip_count, mask, keys=25_200, maximum=4)
    assert_every_subset_is_equally_likely(clipped, mask)


@pytest.mark.slow
def test_clip_count_adds_every_subset_equally_likely_from_among():
    mask = np.arange(40).reshape(2, 20) % 7 == 0
    among = np.arange(40).reshape(2, 20) % 4 == 1
    among[0, :2] = True  # 9 tokens that the mask lacks, and some that it holds
    minimum = int(mask.sum()) + 4
    clipped = sampled(jm.clip_count, mask, keys=25_200, minimum=minimum, among=among)
    assert clipped[:, mask].all()
    assert_every_subset_is_equally_likely(clipped & ~mask, among & ~mask)


@pytest.mark.slow
def test_clip_count_has_the_same_chance_for_every_token_of_a_large_grid():
    """Chi-square of how often each token is in one of many subsets of one size."""
    kept = sampled(jm.clip_count, np.ones((16, 24, 24), bool), keys=500, maximum=3000)
    assert counts(kept) == {3000}
    rows, chance = kept.reshape(500, -1), kept.mean()
    tokens = rows.shape[1]
    variance = 500 * chance * (1 - chance) * tokens / (tokens - 1)
    statistic = np.sum((rows.sum(0) - 500 * chance) ** 2) / variance
    assert CHANCE / 2 < stats.chi2.sf(statistic, tokens - 1) < 1 - CHANCE / 2
