"""Random subsets are exact and uniform, in both ways of picking them, and programs stay flat."""

import contextlib
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from scipy import stats

import jepa_masks_jax as jm
from jepa_masks_jax._draws import random_words
from jepa_masks_jax._subsets import lowest_by_bisection, lowest_by_sorting, random_subset

CHANCE = 1e-6
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

    def draw(key):
        return random_subset(random_words(key, pool.size), pool, jnp.int32(count))

    keys = jax.random.split(jax.random.key(40), 20_000)
    masks = np.asarray(jax.jit(jax.vmap(draw))(keys))
    assert not masks[:, ~pool].any()
    assert (masks.sum(1) == count).all()
    _, frequency = np.unique(masks @ (1 << np.arange(pool.size)), return_counts=True)
    assert len(frequency) == math.comb(pool.sum(), count)
    assert stats.chisquare(frequency).pvalue > CHANCE


def without_pool(way, words, count):
    return way(words, None, count)


@contextlib.contextmanager
def strict(enable_x64):
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with (
        enable(enable_x64),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        yield


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

    with strict(enable_x64):
        got = jax.jit(run)(jnp.asarray(draws >> 1), jnp.asarray(counts))
    for name, masks in got.items():
        for mask in masks:
            assert mask.dtype == jnp.bool_
            np.testing.assert_array_equal(mask, expected[name], err_msg=name)


_COUNTED = ("sort", "scan", "scatter")
_LONGEST_SCAN = 48


def equations(jaxpr, platforms=()):
    """Every equation with the platforms of the branches that it stands in, however nested."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation, platforms
        branches_of = equation.params.get("branches_platforms")
        for value in equation.params.values():
            values = value if isinstance(value, tuple | list) else (value,)
            inner = [one for one in values if hasattr(getattr(one, "jaxpr", one), "eqns")]
            if branches_of and len(inner) == len(branches_of):
                for one, branch in zip(inner, branches_of, strict=True):
                    name = "default" if branch is None else "+".join(branch)
                    yield from equations(one, (*platforms, name))
            else:
                for one in inner:
                    yield from equations(one, platforms)


_MASK = np.indices((4, 6)).sum(0) % 2 == 0
_GRID = (14, 14)
_BOXES = {
    "block": lambda key: jm.block_mask(key, _GRID),
    "block-full": lambda key: jm.block_mask(key, (4, 4), num_targets=9, target_scale=(0.9, 1)),
    "spatiotemporal": lambda key: jm.spatiotemporal_mask(key, (8, *_GRID)),
    "multi-block": lambda key: jm.multi_block_mask(key, _GRID),
    "ijepa": lambda key: jm.ijepa_masks(key, _GRID),
    "ijepa-reference": lambda key: jm.ijepa_masks(key, _GRID, sampling="reference"),
    "ijepa-overlap": lambda key: jm.ijepa_masks(key, _GRID, allow_overlap=True),
    "vjepa": lambda key: jm.vjepa_mask(key, (8, *_GRID)),
    "vjepa-long": lambda key: jm.vjepa_mask(
        key, (8, *_GRID), num_blocks=2, spatial_scale=(0.7, 0.7)
    ),
    "vjepa-partial": lambda key: jm.vjepa_mask(key, (8, 9, 9), temporal_scale=(0.2, 0.7)),
    "ijepa-sequence": lambda key: jm.ijepa_masks(key, (70,)),
    "box": lambda key: jm.box_mask(key, _GRID, num_boxes=40, extent=(2, None)),
    "inverse-block": lambda key: jm.inverse_block_mask(key, _GRID, mask_ratio=0.65),
}
_SUBSETS = {
    "random": lambda key: jm.random_mask(key, _GRID, mask_ratio=0.7),
    "random-tube": lambda key: jm.random_tube_mask(key, (8, *_GRID), mask_ratio=0.7),
    "random-cells": lambda key: jm.random_mask(key, _GRID, num_masked=3, cell=(7, 2)),
    "span": lambda key: jm.span_mask(key, (100,), mask_ratio=0.5, span=10),
    "object": lambda key: jm.object_mask(key, 7),
    "object-range": lambda key: jm.object_mask(key, 7, num_masked=(1, 4)),
    "clip": lambda key: jm.clip_count(key, jnp.asarray(_MASK), minimum=6, maximum=9),
    "clip-among": lambda key: jm.clip_count(
        key, jnp.asarray(_MASK), minimum=14, among=jnp.asarray(~_MASK)
    ),
}


def _indices(key):
    del key
    return tuple(jm.token_indices(jnp.asarray(_MASK), size=9))


def structure(function, *, batched=False):
    """How many sorts, scans and scatters stand outside all branches, and in each platform's."""
    example = jax.random.key(0)
    if batched:
        function, example = jax.vmap(function), jax.random.split(example, 3)
    counts = {}
    for equation, platforms in equations(jax.make_jaxpr(function)(example)):
        name = equation.primitive.name
        assert name not in ("while", "while_loop")
        if name == "scan":
            assert equation.params["length"] <= _LONGEST_SCAN
        for platform in platforms or ("outside",):
            counts.setdefault(platform, dict.fromkeys(_COUNTED, 0))
        for counted in _COUNTED:
            if name == counted or name.startswith(f"{counted}-"):
                counts[(platforms or ("outside",))[-1]][counted] += 1
    return counts


_NONE = dict.fromkeys(_COUNTED, 0)


@pytest.mark.parametrize("batched", [slow(False), True], ids=["one", "batch"])
@pytest.mark.parametrize("name", _BOXES)
def test_masks_of_boxes_have_no_loops_sorts_or_scatters(name, batched):
    assert structure(_BOXES[name], batched=batched) == {"outside": _NONE}


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("name", _SUBSETS)
def test_subsets_are_two_sorts_or_on_a_cpu_two_short_scans(name, batched):
    assert structure(_SUBSETS[name], batched=batched) == {
        "outside": _NONE,
        "default": _NONE | {"sort": 2},
        "cpu": _NONE | {"scan": 2},
    }


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
def test_blockwise_masks_are_one_scan_over_the_tries_and_a_subset(batched):
    assert structure(lambda key: jm.blockwise_mask(key, _GRID, num_masked=75), batched=batched) == {
        "outside": _NONE | {"scan": 1},
        "default": _NONE | {"sort": 2},
        "cpu": _NONE | {"scan": 2},
    }


def test_token_indices_are_one_sort_on_a_tpu_only():
    counts = structure(_indices)
    assert counts["tpu"] == _NONE | {"sort": 1}
    assert (counts["default"]["sort"], counts["default"]["scan"]) == (0, 0)
    assert counts["outside"] == _NONE


def test_the_count_of_primitives_sees_into_loops_and_branches():
    def function(key):
        x = jax.random.bits(key, (5,))
        x = jax.lax.cond(x[0] > 3, jnp.sort, lambda x: x, x)
        return jax.jit(lambda x: jax.lax.scan(lambda c, y: (c, jnp.sort(x) + y), 0, x))(x)

    assert structure(function) == {"outside": _NONE | {"sort": 2, "scan": 1}}
    with pytest.raises(AssertionError):
        structure(lambda key: jax.lax.while_loop(lambda i: i < 3, lambda i: i + 1, 0))
