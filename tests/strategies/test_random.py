"""Random tokens, tubes and slots, and those `among` the tokens that may be masked.

Their definition, exact counts, every subset equally likely, and the bits of `clip_count`.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from cases import first_fast, slow
from sampling import (
    CHANCE,
    assert_defined,
    assert_every_subset_is_equally_likely,
    assert_uniform,
    counts,
    sampled,
)
from scipy import stats
from transcription import count_range, keys_and_words

import jepa_masks_jax as jm

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("function", "grid", "options", "least", "most"),
    first_fast(
        [
            (jm.random_mask, (5, 5), {"mask_ratio": 0.5}, 12, 12),  # 12.5, half to even
            (jm.random_tube_mask, (3, 4, 5), {"mask_ratio": 0.9}, 3 * 18, 3 * 18),
            (jm.object_mask, 9, {"num_masked": (1, 8)}, 1, 8),
            (jm.random_mask, (14, 14), {"mask_ratio": 0.75}, 147, 147),
            (jm.random_mask, (3, 5, 7), {"mask_ratio": 0.4}, 42, 42),
            (jm.random_mask, (3, 5), {"mask_ratio": 0.5}, 8, 8),  # 7.5, half to even
            (jm.random_mask, (2, 7), {"mask_ratio": 0.26}, 4, 4),  # 3.64
            (jm.random_mask, (2, 2), {"mask_ratio": 0.01}, 1, 1),
            (jm.random_mask, (2, 2), {"mask_ratio": 0.99}, 3, 3),
            (jm.object_mask, 7, {"num_masked": 2}, 2, 2),
        ],
        fast=3,
    ),
)
def test_definition(function, grid, options, least, most):
    assert counts(assert_defined(function, grid, **options)) == set(range(least, most + 1))


@pytest.mark.parametrize(
    ("grid", "cell", "count"),
    [
        ((6, 6), (2, 3), 2),
        ((4, 2, 6), (4, 1, 1), 5),
        ((8,), (2,), 3),
        ((2, 3, 4, 2), (1, 3, 2, 2), 1),
    ],
)
def test_whole_cells_are_masked_and_counted(grid, cell, count):
    cells = sampled(jm.random_mask, grid, keys=20, num_masked=count, cell=cell)
    for axis, part in enumerate(cell, 1):
        shape = cells.shape
        split = cells.reshape(*shape[:axis], shape[axis] // part, part, *shape[axis + 1 :])
        assert (split == split.take([0], axis + 1)).all()
        cells = split.take(0, axis + 1)
    assert counts(cells) == {count}


@pytest.mark.parametrize(("side", "rounded"), [(56, 29), (64, 38), (96, 86)])
def test_simmim_rounds_to_the_nearest_and_its_authors_up(side, rounded):
    cells = (side // 8) ** 2
    assert math.ceil(0.6 * cells) == rounded + 1
    up = {"mask_ratio": None, "num_masked": rounded + 1}
    for options, expected in (({}, rounded), (up, rounded + 1)):
        mask = np.asarray(jm.presets.simmim(KEY, (side, side), **options))
        of_cells = mask.reshape(side // 8, 8, side // 8, 8).sum((1, 3))
        assert sorted(of_cells.ravel().tolist()) == [0] * (cells - expected) + [64] * expected


def test_a_pair_of_ratios_samples_every_count_between_and_one_of_equal_ratios_is_one():
    masks = sampled(jm.random_mask, (10,), keys=2000, mask_ratio=(0.2, 0.5))
    assert_uniform(masks.sum(1) - 2, 4)
    mask = jm.random_mask(KEY, (14, 14), mask_ratio=(0.3, 0.3))
    np.testing.assert_array_equal(mask, jm.random_mask(KEY, (14, 14), mask_ratio=0.3))


def test_a_list_of_two_equal_counts_is_a_pair():
    assert jm.random_mask(KEY, (3, 4), num_masked=[2, 2]).sum() == 2


# The law


@pytest.mark.slow
def test_every_subset_of_tokens_is_equally_likely():
    masks = sampled(jm.random_mask, (3, 3), keys=25_200, mask_ratio=0.4)
    assert_every_subset_is_equally_likely(masks)


@pytest.mark.slow
def test_every_subset_of_tubes_is_equally_likely_and_the_same_in_all_frames():
    masks = sampled(jm.random_tube_mask, (3, 2, 4), keys=14_000, mask_ratio=0.5)
    assert (masks == masks[:, :1]).all()
    assert_every_subset_is_equally_likely(masks[:, 0])


@pytest.mark.slow
def test_every_count_of_slots_and_every_subset_of_it_are_equally_likely():
    masks = sampled(jm.object_mask, 5, keys=20_000, num_masked=(1, 4))
    sizes = masks.sum(axis=1)
    assert_uniform(sizes - 1, 4)
    for size in range(1, 5):
        assert_every_subset_is_equally_likely(masks[sizes == size])


# Among the tokens that may be masked

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
    pools = [rng.permutation(15) < count for count in range(16) for _ in range(2)]
    return np.array(pools).reshape(-1, *GRID)


def of_every_kind(key, pool, count):
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
    traced = np.arange(len(pools())) % 19 - 2
    draw = jax.vmap(jax.vmap(of_every_kind, (None, 0, 0)), (0, None, None))
    masks = jax.jit(draw)(keys, pools(), traced)
    return keys, words, pools(), traced, jax.tree.map(np.asarray, masks)


def test_counts_are_of_the_eligible_tokens(samples):
    _, _, all_pools, traced, masks = samples
    for i, pool in enumerate(all_pools):
        eligible = int(pool.sum())
        for name, mask in masks.items():
            masked = MASKED.get(name.removesuffix("-slots"), max(int(traced[i]), 1))
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
    half = [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8]
    assert np.all(samples[-1]["ratio"].sum((2, 3)) == np.repeat(half, 2))
    most = [0, *range(15)]
    assert np.all(samples[-1]["high-ratio"].sum((2, 3)) == np.repeat(most, 2))


def test_masks_among_are_their_definition(samples):
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
    options = {"keys": 100, "mask_ratio": (0.2, 0.7)}
    among = sampled(jm.random_mask, (4, 6), among=np.ones((4, 6), bool), **options)
    np.testing.assert_array_equal(sampled(jm.random_mask, (4, 6), **options), among)


def test_masks_of_one_key_are_nested():
    pool = np.arange(24).reshape(4, 6) % 3 > 0
    every = np.arange(1, 24)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draw(key, count):
        return (
            jm.random_mask(key, (4, 6), num_masked=count),
            jm.random_mask(key, (4, 6), num_masked=count, among=pool),
        )

    masks, among = draw(jax.random.split(KEY, 20), every)
    assert np.all(masks.sum((2, 3)) == every[None])
    assert np.all(among.sum((2, 3)) == np.minimum(every, 15)[None])
    for nested in (masks, among):
        assert not np.any(nested[:, :-1] & ~nested[:, 1:])


@pytest.mark.parametrize("masked", [slow(3), slow(0.5), slow((2, 4))], ids=str)
def test_every_subset_of_the_eligible_tokens_is_equally_likely(masked):
    pool = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0], bool)
    masks = sampled(jm.random_mask, (12,), keys=20_000, among=pool, **option(masked))[:, pool]
    low, high = count_range(6, masked)
    subsets, frequency = np.unique(masks @ (1 << np.arange(6)), return_counts=True)
    sizes = [int(subset).bit_count() for subset in subsets]
    assert len(subsets) == sum(math.comb(6, count) for count in range(low, high + 1))
    expected = [len(masks) / (high - low + 1) / math.comb(6, size) for size in sizes]
    assert stats.chisquare(frequency, expected).pvalue > CHANCE
