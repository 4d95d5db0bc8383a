"""The masks of `multi_block_mask`: their definition, squares worked by hand, and their law."""

import numpy as np
import pytest
from cases import first_fast
from sampling import (
    assert_corner_is_uniform,
    assert_defined,
    assert_token_left_is_uniform,
    block_size,
    sampled,
)

import jepa_masks_jax as jm


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {}),
            ((3, 6, 33), {"num_blocks": 5}),
            ((4, 31), {"mask_ratio": 0.7}),
            ((4, 32), {"mask_ratio": 0.7}),
            ((2, 2), {"mask_ratio": 0.99, "num_blocks": 1}),
            ((2, 3, 3), {"mask_ratio": 0.9, "num_blocks": 2}),
            ((1, 2), {}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_definition(grid, options):
    assert_defined(jm.multi_block_mask, grid, **options)


@pytest.mark.slow
def test_the_square_of_a_ratio_halfway_between_two_counts():
    # round(12.5) = 13, away from zero, and round(sqrt(13)) = 4; of 12 it is 3.
    masks = sampled(jm.multi_block_mask, (5, 5), mask_ratio=0.5, num_blocks=1)
    assert block_size(masks) == (4, 4)


def test_a_square_stands_in_one_of_four_places_in_every_frame():
    masks = sampled(jm.multi_block_mask, (2, 3, 3), mask_ratio=0.44, num_blocks=1)
    assert {tuple(np.flatnonzero(mask).tolist()) for mask in masks} == {
        (0, 1, 3, 4, 9, 10, 12, 13),
        (1, 2, 4, 5, 10, 11, 13, 14),
        (3, 4, 6, 7, 12, 13, 15, 16),
        (4, 5, 7, 8, 13, 14, 16, 17),
    }


@pytest.mark.slow
def test_corner():
    options = {"mask_ratio": 0.25, "num_blocks": 1}
    assert_corner_is_uniform(jm.multi_block_mask, (9, 7), size=(4, 4), **options)


@pytest.mark.slow
def test_the_token_left_by_a_full_cover():
    assert_token_left_is_uniform(jm.multi_block_mask, (2, 2), mask_ratio=0.99, num_blocks=1)
