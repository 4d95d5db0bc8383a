"""The masks of `blockwise_mask`: their definition, exact counts, and the law of BEiT's loop.

The loop draws from NumPy's generator.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from cases import first_fast, slow
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import assert_defined, assert_same_distribution, assert_same_mean, sampled

import jepa_masks_jax as jm

MASKS = 2000


@pytest.mark.parametrize(
    ("grid", "options", "least", "most"),
    first_fast(
        [
            ((9, 12), {"mask_ratio": (0.1, 0.5), "min_block": 4, "max_block": 30}, 11, 54),
            ((14, 14), {"num_masked": 75}, 75, 75),
            ((12, 9), {"num_masked": (1, 107), "min_block": 1, "aspect_ratio": (0.5, 3)}, 1, 107),
            ((7, 7), {"num_masked": 5, "min_block": 49, "aspect_ratio": (1.0, 1.0)}, 5, 5),
            ((2, 3), {"num_masked": 3, "min_block": 1}, 3, 3),
            # Areas of exactly 16, where products come closest to 32 bits.
            ((14, 14), {"num_masked": 64, "max_block": 16, "aspect_ratio": (1, 1)}, 64, 64),
            ((14, 14), {"num_masked": 48, "max_block": 16, "aspect_ratio": (0.5, 1)}, 48, 48),
            # Flat blocks.
            ((14, 14), {"num_masked": 90, "min_block": 4, "aspect_ratio": (0.05, 0.2)}, 90, 90),
        ],
        fast=1,
    ),
    ids=str,
)
def test_definition(grid, options, least, most):
    def definition(words, grid, mask_ratio=None, num_masked=None, **others):
        return transcription.blockwise_mask(words, grid, least, most, **others)

    assert_defined(jm.blockwise_mask, grid, definition, **options)


def test_large_blocks_of_one_aspect_ratio_stay_blocks():
    """A block of 1,024 tokens at aspect 1.5 is 39x26: it has a few edges, single tokens many."""
    options = {"num_masked": 2048, "min_block": 1024, "max_block": 1024}
    mask = jm.blockwise_mask(jax.random.key(0), (64, 64), aspect_ratio=(1.5, 1.5), **options)
    assert int(mask.sum()) == 2048
    assert np.count_nonzero(np.diff(np.asarray(mask).astype(int))) < 400


def test_a_block_as_large_as_the_grid_does_not_overflow():
    """No block is placed, so the eight masked tokens are random ones."""
    masks = sampled(jm.blockwise_mask, (64, 64), num_masked=8, min_block=4096).astype(int)
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    assert masks.sum() == 800
    assert (around[masks == 1] == 0).mean() > 0.95


@pytest.mark.slow
@settings(max_examples=3)
@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.integers(1, 30),
    st.none() | st.integers(1, 40),
    st.sampled_from([(0.3, 1 / 0.3), (1.0, 1.0), (0.05, 0.2), (4.0, 30.0)]),
)
def test_counts_are_exact_for_every_number(grid, min_block, max_block, aspect_ratio):
    tokens = math.prod(grid)
    min_block = min(min_block, tokens)
    options = {
        "min_block": min_block,
        "max_block": max_block and min(max(max_block, min_block), tokens),
        "aspect_ratio": aspect_ratio,
    }
    draw = jax.vmap(lambda key, n: jm.blockwise_mask(key, grid, num_masked=n, **options))
    keys = jax.random.split(jax.random.key(0), tokens + 2)
    masks = jax.jit(draw)(keys, jnp.arange(-1, tokens + 1))
    expected = np.clip(np.arange(-1, tokens + 1), 1, tokens - 1)
    np.testing.assert_array_equal(masks.sum((1, 2)), expected)


def rectangle(rng, grid, size):
    mask = np.zeros(grid, bool)
    top, left = (rng.integers(side - part + 1) for side, part in zip(grid, size, strict=True))
    mask[top : top + size[0], left : left + size[1]] = True
    return mask


def blocks_until(rng, grid, num_masked, min_block):
    """BEiT: blocks until the number is reached or ten in a row were refused."""
    mask, refused = np.zeros(grid, bool), 0
    while mask.sum() < num_masked and refused < 10:
        rest = num_masked - mask.sum()
        area = min_block + rng.random() * (rest - min_block)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        size = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        refused += 1
        if size[0] < grid[0] and size[1] < grid[1]:
            new = rectangle(rng, grid, size) & ~mask
            if 0 < new.sum() <= rest:
                mask, refused = mask | new, 0
    return mask


def completed(rng, mask, num_masked):
    """DINOv3: the missing tokens are random."""
    mask = mask.copy()
    free = np.flatnonzero(~mask)
    mask.flat[rng.choice(free, num_masked - mask.sum(), replace=False)] = True
    return mask


LOOPS = [slow((14, 14), 75, 16), slow((16, 16), 128, 4), slow((12, 20), 60, 4)]


@functools.cache
def reference_blocks(grid, num_masked, min_block):
    rng = np.random.default_rng(51)
    return np.array([blocks_until(rng, grid, num_masked, min_block) for _ in range(MASKS)])


@pytest.mark.parametrize(("grid", "num_masked", "min_block"), LOOPS)
def test_masks_are_those_of_the_loop(grid, num_masked, min_block):
    rng = np.random.default_rng(52)
    blocks = reference_blocks(grid, num_masked, min_block)
    theirs = np.array([completed(rng, mask, num_masked) for mask in blocks])
    options = {"num_masked": num_masked, "min_block": min_block}
    ours = sampled(jm.blockwise_mask, grid, keys=MASKS, **options)
    assert (ours.sum((1, 2)) == num_masked).all()
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize(("grid", "num_masked", "min_block"), LOOPS)
def test_as_many_tokens_are_left_to_random_completion_as_in_the_loop(grid, num_masked, min_block):
    rng = np.random.default_rng(53)
    words = rng.integers(0, 2**32, (MASKS, 24, 4), np.uint32)
    blocks = [transcription.try_blocks(w, grid, num_masked, min_block) for w in words]
    ours = num_masked - np.sum(blocks, axis=(1, 2))
    theirs = num_masked - reference_blocks(grid, num_masked, min_block).sum((1, 2))
    assert_same_mean(ours, theirs)
    assert_same_mean(ours > 0, theirs > 0)
