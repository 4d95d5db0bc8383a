"""The highest scores are those of NumPy's stable sort, for every type, in both ways of sorting."""

import functools
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from modes import code_of, every_check, x64
from sampling import assert_every_subset_is_equally_likely, counts, sampled

import jepa_masks_jax as jm

_FLOATS = [
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e3m4",
]
_INTEGERS = ["int8", "uint8", "int16", "uint16", "uint32", "int32"]
_FAST = ("bfloat16", "float8_e4m3fnuz", "uint32")
_TOKENS = 24


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def highest(scores, count, pool):
    """The first tokens of NumPy's stable sort: high scores first, NaN last, ties in order.

    Every score here is a float64, in which `-0.0` equals `0.0` and small numbers are not lost.
    """
    values = scores.astype(np.float64).reshape(-1)
    last_key_first = np.where(np.isnan(values), 0.0, -values), np.isnan(values), ~pool.reshape(-1)
    order = np.lexsort(last_key_first)
    mask = np.zeros(values.size, bool)
    mask[order[: min(max(count, 0), pool.sum())]] = True
    return mask.reshape(scores.shape)


def special(dtype):
    """The numbers that are easily mistaken: every one next to a border, both zeros, NaN."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        near = [limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max]
        return np.array([n for n in near if n >= limits.min], dtype)
    limits = ml_dtypes.finfo(dtype)
    tiny = limits.smallest_subnormal
    near = [0.0, -0.0, tiny, -tiny, 3 * tiny, limits.tiny, -limits.tiny, 1, 1 + limits.eps, -1]
    near += [limits.max, limits.min, np.inf, -np.inf, np.nan, -np.nan]
    return np.array([float(n) for n in near]).astype(dtype)


def examples(dtype, samples=60):
    """Scores with many ties, pools of every kind, and counts from -2 to more than there are."""
    rng = np.random.default_rng(0)
    scores = rng.choice(special(dtype), (samples, _TOKENS))
    smooth = (rng.normal(size=(samples, _TOKENS)) * 50).astype(np.int8).astype(dtype)
    scores[::3] = smooth[::3]
    pools = rng.random((samples, _TOKENS)) < rng.choice([0, 0.1, 0.6, 1], (samples, 1))
    counts = rng.integers(-2, _TOKENS + 3, samples)
    return scores, pools, counts


def assert_highest(dtype, masks):
    scores, pools, counts = examples(dtype)
    everything = np.ones(_TOKENS, bool)
    *in_order, at_random = masks
    for i, count in enumerate(counts):
        for got, pool in zip(in_order, (everything, pools[i]), strict=True):
            expected = highest(scores[i], count, pool)
            message = f"{scores[i]}, {count}, {pool.astype(int)}"
            np.testing.assert_array_equal(got[i], expected, err_msg=message)
        chosen = np.asarray(at_random[i])
        assert not np.any(chosen & ~pools[i])
        values = scores[i].astype(np.float64)
        np.testing.assert_array_equal(np.sort(values[chosen]), np.sort(values[expected]))


def test_every_subset_of_equal_scores_is_equally_likely_in_both_ways():
    """Of the tokens 1, 2, 4, 5 and 7 with the same score, two are taken."""
    scores = jnp.array([3, 1, 1, 5, 1, 1, 0, 1, 1, 9], jnp.bfloat16)
    options = {"num_masked": 4, "among": np.arange(10) < 8}
    both = []
    for platform in ("cpu", "tpu"):
        with code_of(platform):
            draw = lambda key, scores: jm.top_mask(scores, key=key, **options)  # noqa: E731
            both.append(sampled(draw, scores, keys=40_000))
    masks, others = both
    np.testing.assert_array_equal(masks, others)
    assert masks[:, [0, 3]].all()
    assert_every_subset_is_equally_likely(masks[:, [1, 2, 4, 5, 7]])
    assert counts(masks) == {4}


def test_pairs_of_twenty_tied_tokens_are_masked_together_equally_often():
    draw = lambda key, scores: jm.top_mask(scores, num_masked=10, key=key)  # noqa: E731
    masks = sampled(draw, jnp.zeros(20), keys=20_000)
    together = masks.astype(int).T @ masks / len(masks)
    chance, pairs = 9 / 38, ~np.eye(20, dtype=bool)
    # Five and a half standard deviations: 190 pairs stay within them with error 1e-5.
    error = 5.5 * np.sqrt(chance * (1 - chance) / len(masks))
    np.testing.assert_allclose(together[pairs], chance, atol=error)


def test_equal_scores_favor_no_row_with_a_key():
    """Each row of zeros holds a half of the 20,000 masks: six standard errors are 0.0081."""
    keys = jax.random.split(jax.random.key(3), 20_000)
    draw = jax.vmap(lambda key: jm.top_mask(jnp.zeros((2, 4)), num_masked=4, key=key))
    rows = np.asarray(jax.jit(draw)(keys)).mean((0, 2))
    np.testing.assert_allclose(rows, 0.5, atol=0.0081)
    assert jm.top_mask(jnp.zeros((2, 4)), num_masked=4).sum(1).tolist() == [4, 0]


def of_type(dtype):
    """Masks without and with `among` and ties broken at random, of traced counts."""
    scores, pools, counts = examples(dtype)
    keys = jax.random.split(jax.random.key(2), len(counts))

    @jax.vmap
    def draw(key, scores, pool, count):
        return (
            jm.top_mask(scores, num_masked=count),
            jm.top_mask(scores, num_masked=count, among=pool),
            jm.top_mask(scores, num_masked=count, among=pool, key=key),
        )

    return draw(keys, scores, pools, counts)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_scores_of_32_bits_in_both_ways(platform):
    names = ["float32", "int32"]
    with code_of(platform) as choices:
        masks = jax.jit(lambda: {name: of_type(dtype_of(name)) for name in names})()
    assert choices
    for name in names:
        assert_highest(dtype_of(name), masks[name])


@pytest.mark.parametrize(
    "name",
    [
        name if name in _FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in _FLOATS[1:] + _INTEGERS[:5]
    ],
)
def test_scores_of_other_types(name):
    dtype = dtype_of(name)
    if not hasattr(jnp, name):
        pytest.skip(f"this jax has no {name}")
    assert_highest(dtype, jax.jit(functools.partial(of_type, dtype))())


def test_every_float16_stands_in_its_place():
    """Of a type's all 65,536 numbers each count takes the highest."""
    scores = np.arange(2**16, dtype=np.uint16).view(np.float16)
    draw = jax.jit(lambda count: jm.top_mask(scores, num_masked=count))
    for count in [1, 31 * 2**10, 31 * 2**10 + 1, 31 * 2**10 + 2, 63_000, 2**16 - 2046, 2**16 - 1]:
        expected = highest(scores, count, np.ones(2**16, bool))
        np.testing.assert_array_equal(draw(count), expected, err_msg=str(count))


def test_the_lowest_scores_tie_with_tokens_outside():
    lowest = {"float32": [np.nan, -np.inf], "int32": [-(2**31)], "uint32": [0], "int8": [-128]}
    pool = np.array([False, True, False, True, True, False])
    for name, values in lowest.items():
        for value in values:
            scores = np.full(6, value, name)
            got = jm.top_mask(scores, num_masked=2, among=pool)
            assert np.flatnonzero(got).tolist() == [1, 3], (name, value)


def test_ties_are_in_row_major_order_on_a_grid():
    scores = np.zeros((2, 3, 2), np.float32)
    scores[1, 1, 0] = 1
    got = jm.top_mask(scores, num_masked=4)
    assert np.flatnonzero(got).tolist() == [0, 1, 2, 8]


def test_zeros_tie_and_subnormal_numbers_do_not():
    tiny = np.float32(1e-45)
    scores = jnp.asarray(np.array([-0.0, 0.0, -tiny, tiny, -0.0, 2 * tiny, np.nan], np.float32))
    masks = jax.jit(jax.vmap(lambda n: jm.top_mask(scores, num_masked=n)))(np.arange(8))
    taken = [set(np.flatnonzero(mask).tolist()) for mask in masks]
    order = [(b - a).pop() for a, b in itertools.pairwise(taken)]
    assert order == [5, 3, 0, 1, 4, 2, 6]


def test_no_token_and_all_tokens():
    scores = np.array([[3.0, np.nan], [-np.inf, 3.0]], np.float32)
    none, second_row = np.zeros((2, 2), bool), np.array([[False] * 2, [True] * 2])

    @jax.jit
    def draw():
        return (
            jm.top_mask(scores, num_masked=0),
            jm.top_mask(scores, num_masked=4),
            jm.top_mask(scores, num_masked=4, among=none),
            jm.top_mask(scores, num_masked=4, among=second_row),
        )

    for got, expected in zip(draw(), (none, ~none, none, second_row), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_counts_of_every_type_are_clamped(dtype):
    scores = np.arange(5, dtype=np.float32)
    with x64(dtype.endswith("64")):
        limits = np.iinfo(dtype)
        for value, expected in [(2, 2), (limits.max, 5), (max(limits.min, -3), 0), (limits.min, 0)]:
            count = jnp.asarray(np.array(value, dtype))
            assert jm.top_mask(scores, num_masked=count).sum() == expected


def test_every_check_in_64_bit_mode():
    dtype = dtype_of("float32")
    scores, pools, counts = examples(dtype)
    with x64(True):
        args = jnp.asarray(scores), jnp.asarray(pools), jnp.asarray(counts, np.int64)
        with every_check(), jax.debug_nans(False):  # NaN is a score
            draw = jax.vmap(lambda s, pool, n: jm.top_mask(s, num_masked=n, among=pool))
            masks = jax.jit(draw)(*args)
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, highest(scores[i], counts[i], pools[i]))
