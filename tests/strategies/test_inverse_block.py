"""The masks of `inverse_block_mask`: their definition, exact counts, and the law of CAPI's loop.

The loop draws from NumPy's generator.
"""

import itertools
import math

import jax
import numpy as np
import pytest
from cases import first_fast, slow
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import assert_defined, assert_same_distribution, counts, sampled

import jepa_masks_jax as jm

MASKS = 2000


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {"mask_ratio": 0.65}),
            ((9, 12), {"num_masked": 70, "roll": False}),
            ((5, 30), {"mask_ratio": 0.3, "aspect_ratio": (0.1, 9.0)}),
            ((6, 6), {"num_masked": 35, "aspect_ratio": (1.0, 1.0)}),
            ((20, 5), {"num_masked": 55, "aspect_ratio": (5, 5)}),  # 45 visible tokens: 15x3
            ((6, 6), {"num_masked": 1, "aspect_ratio": (1.0, 1.0), "roll": False}),
            ((1, 9), {"mask_ratio": 0.5, "aspect_ratio": (0.01, 1.0)}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_definition(grid, options):
    assert_defined(jm.inverse_block_mask, grid, **options)


def test_a_block_as_wide_as_the_grid_is_no_wider():
    # sqrt(27 / 0.12) is 15, the width of the grid, and above it in floating point.
    masks = sampled(jm.inverse_block_mask, (2, 15), num_masked=3, aspect_ratio=(0.05, 0.12))
    assert counts(masks) == {3}


def test_a_block_of_whole_sides_is_no_higher():
    # 45 visible tokens of aspect ratio 5 are 15x3, in 6 * 3 places.
    options = {"num_masked": 55, "aspect_ratio": (5, 5), "roll": False}
    masks = sampled(jm.inverse_block_mask, (20, 5), **options)
    expected = set()
    for top, left in itertools.product(range(6), range(3)):
        mask = np.ones((20, 5), bool)
        mask[top : top + 15, left : left + 3] = False
        expected.add(mask.tobytes())
    assert {mask.tobytes() for mask in masks} == expected


@pytest.mark.slow
@settings(max_examples=6)
@given(
    st.tuples(st.integers(1, 9), st.integers(2, 9)),
    st.floats(0.01, 0.99),
    st.sampled_from([(0.5, 2.0), (1.0, 1.0), (0.05, 0.2), (0.01, 100.0)]),
    st.booleans(),
)
def test_masks_are_exact_or_refused(grid, mask_ratio, aspect_ratio, roll):
    tokens = math.prod(grid)
    options = {"mask_ratio": mask_ratio, "aspect_ratio": aspect_ratio, "roll": roll}
    count = min(max(round(mask_ratio * tokens), 1), tokens - 1)
    low, high = aspect_ratio
    visible = tokens - count
    if max(low, visible / grid[1] ** 2) > min(high, grid[0] ** 2 / visible):
        with pytest.raises(ValueError, match="aspect_ratio must allow a block"):
            jm.inverse_block_mask(jax.random.key(0), grid, **options)
    else:
        assert counts(sampled(jm.inverse_block_mask, grid, keys=20, **options)) == {count}


def inverse_block(rng, grid, num_masked, roll):
    """CAPI: the first tokens of a block are visible, then the grid is shifted."""
    (height, width), visible = grid, math.prod(grid) - num_masked
    low, high = max(0.5, visible / width**2), min(2.0, height**2 / visible)
    aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
    size = math.ceil(math.sqrt(visible * aspect)), math.ceil(math.sqrt(visible / aspect))
    mask = np.ones(grid, bool)
    top, left = (rng.integers(side - part + 1) for side, part in zip(grid, size, strict=True))
    mask[top : top + size[0], left : left + size[1]] = False
    mask.flat[np.flatnonzero(~mask)[visible:]] = True
    return np.roll(mask, rng.integers(grid) if roll else 0, (0, 1))


@pytest.mark.parametrize("roll", [True, False])
@pytest.mark.parametrize(("grid", "num_masked"), [slow((14, 14), 127), slow((12, 20), 156)])
def test_masks_are_those_of_the_loop(grid, num_masked, roll):
    rng = np.random.default_rng(54)
    theirs = np.array([inverse_block(rng, grid, num_masked, roll) for _ in range(MASKS)])
    ours = sampled(jm.inverse_block_mask, grid, keys=MASKS, num_masked=num_masked, roll=roll)
    assert counts(ours) == {num_masked}
    assert_same_distribution(ours, theirs)
