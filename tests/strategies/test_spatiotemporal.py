"""The masks of `spatiotemporal_mask`: their definition, a size worked by hand, and their law."""

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

ONE = {"num_targets": 1}


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((8, 14, 14), {}),
            ((3, 4, 40), {"temporal_extent": (2, 9), "spatial_scale": (0.2, 0.9)}),
            ((2, 2), {"num_targets": 3, "spatial_scale": (0.2, 1.0)}),
            ((4, 1, 2), {}),
            ((1, 33), {"temporal_extent": (1, 3), "spatial_scale": (0.1, 0.9)}),
            ((5, 33, 1), {"num_targets": 3, "temporal_extent": (1, 7)}),
            ((3, 3, 3), {"num_targets": 4, "temporal_extent": (2, 5), "spatial_scale": (0.3, 1.0)}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_definition(grid, options):
    assert_defined(jm.spatiotemporal_mask, grid, **options)


@pytest.mark.slow
def test_tube_size_worked_by_hand():
    # Of 3 frames five are three; n = 80 has a side of round(8.94).
    options = ONE | {"temporal_extent": (5, 5), "spatial_scale": (0.5, 0.5)}
    assert block_size(sampled(jm.spatiotemporal_mask, (3, 4, 40), **options)) == (3, 4, 9)


@pytest.mark.slow
def test_corner():
    options = ONE | {"temporal_extent": (2, 2), "spatial_scale": (0.2, 0.2)}
    assert_corner_is_uniform(jm.spatiotemporal_mask, (5, 6, 7), size=(2, 3, 3), **options)


@pytest.mark.slow
def test_the_token_left_by_a_full_cover():
    options = {"temporal_extent": (9, 9), "spatial_scale": (1, 1)}
    assert_token_left_is_uniform(jm.spatiotemporal_mask, (3, 4, 4), **options)
