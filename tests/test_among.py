"""Random tokens `among` those that may be masked: exact counts, uniform, the bits of clip_count."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from scipy import stats
from transcription import count_range, keys_and_words

import jepa_masks_jax as jm

CHANCE = 1e-6
GRID = (3, 5)
MASKED = {
    "ratio": 0.5,
    "low-ratio": 0.01,
    "high-ratio": 0.99,
    "ratio-pair": (0.3, 0.8),
    "count": 4,
    "count-pair": (2, 6),
}


def option(masked):
    is_ratio = isinstance(np.ravel(masked)[0], float)
    return {"mask_ratio" if is_ratio else "num_masked": masked}


def pools():
    """Pools of every count of tokens, of none up to all, two of each."""
    rng = np.random.default_rng(0)
    return np.array([rng.permutation(15) < count for count in range(16) for _ in range(2)]).reshape(
        -1, *GRID
    )


def sampled(key, pool, count):
    """Every kind of count, on an image and on slots, and then a traced one."""
    images = {
        name: jm.random_mask(key, GRID, among=pool, **option(masked))
        for name, masked in MASKED.items()
    }
    slots = {
        f"{name}-slots": jm.object_mask(key, 15, among=pool.reshape(-1), num_masked=masked)
        for name, masked in MASKED.items()
        if "count" in name
    }
    array = {"array": jm.random_mask(key, GRID, among=pool, num_masked=count)}
    return images | slots | array


@pytest.fixture(scope="module")
def samples():
    """Keys, their words, pools, traced counts from -2 on, and the masks of each."""
    keys, words = keys_and_words(5, 10, 16)
    counts = np.arange(len(pools())) % 19 - 2
    draw = jax.vmap(jax.vmap(sampled, (None, 0, 0)), (0, None, None))
    masks = jax.jit(draw)(keys, pools(), counts)
    return keys, words, pools(), counts, jax.tree.map(np.asarray, masks)


def test_counts_are_of_the_eligible_tokens(samples):
    _, _, all_pools, counts, masks = samples
    for i, pool in enumerate(all_pools):
        eligible = int(pool.sum())
        for name, mask in masks.items():
            masked = MASKED.get(name.removesuffix("-slots"), max(int(counts[i]), 1))
            low, high = count_range(eligible, masked)
            got = mask[:, i].reshape(len(mask), -1)
            assert not np.any(got & ~pool.reshape(-1))
            assert np.all((low <= got.sum(1)) & (got.sum(1) <= high)), (name, eligible)
            if eligible <= 1:
                assert not got.any()
            else:
                assert np.all((got.sum(1) >= 1) & (got.sum(1) < eligible))


def test_counts_worked_by_hand(samples):
    """Two pools of each count of tokens: half of them, half to even, one at least stays."""
    counts = samples[-1]["ratio"].sum((2, 3))
    expected = [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8]
    assert np.all(counts == np.repeat(expected, 2))
    counts = samples[-1]["high-ratio"].sum((2, 3))
    assert np.all(counts == np.repeat([0, *range(15)], 2))


def test_masks_are_their_definition(samples):
    _, words, all_pools, _, masks = samples
    for i, j in itertools.product(range(3), range(len(all_pools))):
        for name in MASKED:
            expected = transcription.among(words[i], all_pools[j], MASKED[name])
            np.testing.assert_array_equal(masks[name][i, j], expected, err_msg=f"{name}, {i}, {j}")
            if f"{name}-slots" in masks:
                slots = masks[f"{name}-slots"][i, j]
                np.testing.assert_array_equal(slots, expected.reshape(-1))


def test_masks_are_the_bits_of_clip_count_on_an_empty_mask(samples):
    keys, _, all_pools, _, masks = samples

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, 0))
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def clipped(key, pool, count):
        return jm.clip_count(key, jnp.zeros(GRID, bool), exactly=count, among=pool)

    for name in ("ratio-pair", "array"):
        expected = clipped(keys, all_pools, masks[name].sum((2, 3)))
        np.testing.assert_array_equal(masks[name], expected)


@pytest.mark.slow
def test_all_tokens_among_gives_the_mask_without_among():
    @jax.jit
    @jax.vmap
    def both(key):
        options = {"mask_ratio": (0.2, 0.7)}
        among = jnp.ones((4, 6), bool)
        return (
            jm.random_mask(key, (4, 6), **options),
            jm.random_mask(key, (4, 6), among=among, **options),
        )

    without, among = both(jax.random.split(jax.random.key(0), 100))
    np.testing.assert_array_equal(without, among)


def test_masks_of_one_key_are_nested():
    pool = np.arange(24).reshape(4, 6) % 3 > 0
    counts = np.arange(1, 24)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draw(key, count):
        return (
            jm.random_mask(key, (4, 6), num_masked=count),
            jm.random_mask(key, (4, 6), num_masked=count, among=pool),
        )

    masks, among = draw(jax.random.split(jax.random.key(0), 20), counts)
    assert np.all(masks.sum((2, 3)) == counts)
    assert np.all(among.sum((2, 3)) == np.minimum(counts, 15))
    for nested in (masks, among):
        assert not np.any(nested[:, :-1] & ~nested[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [3, 0.5, (2, 4)], ids=str)
def test_every_subset_of_the_eligible_tokens_is_equally_likely(masked):
    pool = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0], bool)
    keys = jax.random.split(jax.random.key(6), 20_000)
    draw = jax.vmap(lambda key: jm.random_mask(key, (12,), among=pool, **option(masked)))
    masks = np.asarray(jax.jit(draw)(keys))[:, pool]
    low, high = count_range(6, masked)
    subsets, frequency = np.unique(masks @ (1 << np.arange(6)), return_counts=True)
    sizes = [int(subset).bit_count() for subset in subsets]
    assert len(subsets) == sum(math.comb(6, count) for count in range(low, high + 1))
    expected = [len(keys) / (high - low + 1) / math.comb(6, size) for size in sizes]
    assert stats.chisquare(frequency, expected).pvalue > CHANCE
