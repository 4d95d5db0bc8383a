"""What is ported from jepa-rs passes the tests of its masking module, by the same names."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import sampled

import jepa_masks_jax as jm

_DRAWS = 16
_EXAMPLES = 5  # each is a grid of its own, and so a program to compile


def block(num_targets, scale, aspect):
    options = {"target_scale": scale, "target_aspect_ratio": aspect}
    return {"num_targets": num_targets, **options}


def tubes(num_targets, extent):
    return {"num_targets": num_targets, "temporal_extent": extent, "spatial_scale": (0.1, 0.2)}


def squares(mask_ratio, num_blocks):
    return {"mask_ratio": mask_ratio, "num_blocks": num_blocks}


BLOCKS = block(4, (0.15, 0.2), (0.75, 1.5))
# The first is also block_masking_non_empty_partitions and block_masking_no_overlap.
SETTINGS = {
    "block_masking_partitions_all_patches": (jm.block_mask, (14, 14), BLOCKS),
    "spatiotemporal_masking_valid": (jm.spatiotemporal_mask, (8, 14, 14), tubes(2, (2, 4))),
    "multi_block_masking_valid": (jm.multi_block_mask, (14, 14), squares(0.5, 4)),
    "block_masking_minimum_grid_2x2": (jm.block_mask, (2, 2), block(1, (0.25, 0.5), (1, 1))),
    "block_masking_maximum_coverage": (jm.block_mask, (4, 4), block(10, (0.8, 0.99), (0.5, 2))),
    "multi_block_masking_very_high_ratio": (jm.multi_block_mask, (4, 4), squares(0.99, 8)),
    "spatiotemporal_masking_single_frame": (jm.spatiotemporal_mask, (1, 8, 8), tubes(1, (1, 1))),
    "spatiotemporal_masking_on_image_shape": (jm.spatiotemporal_mask, (8, 8), tubes(2, (1, 1))),
}


def assert_valid(mask):
    """Context and target hold every token once, and neither is empty."""
    spec = jm.to_mask_spec(mask)
    spec.validate()
    context, target = spec.context_indices.tolist(), spec.target_indices.tolist()
    assert context
    assert target
    assert sorted(context + target) == list(range(spec.total_tokens)) == list(range(mask.size))


@pytest.mark.parametrize(("function", "grid", "options"), SETTINGS.values(), ids=SETTINGS)
def test_masks_are_valid(function, grid, options):
    assert_valid(function(jax.random.key(42), grid, **options))


@given(st.integers(0, 99_999))
def test_masking_is_reproducible_with_the_same_seed_and_different_with_another(seed):
    one, same, other = (
        jm.to_mask_spec(jm.block_mask(jax.random.key(n), (14, 14), **BLOCKS))
        for n in (seed, seed, seed + 1)
    )
    np.testing.assert_array_equal(one.context_indices, same.context_indices)
    np.testing.assert_array_equal(one.target_indices, same.target_indices)
    assert one.target_indices.tolist() != other.target_indices.tolist()


def assert_all_valid(seed, function, grid, **options):
    keys = jax.random.split(jax.random.key(seed), _DRAWS)
    for mask in sampled(function, grid, keys=keys, **options):
        assert mask.shape == grid
        assert_valid(mask)


seeds = st.integers(0, 99_999)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(seeds, st.integers(4, 19), st.integers(4, 19), st.integers(1, 5))
def test_prop_block_mask_always_valid(seed, grid_h, grid_w, num_targets):
    options = block(num_targets, (0.1, 0.3), (0.75, 1.5))
    assert_all_valid(seed, jm.block_mask, (grid_h, grid_w), **options)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(seeds, st.integers(4, 11), st.integers(4, 11), st.integers(4, 11))
def test_prop_spatiotemporal_mask_always_valid(seed, frames, grid_h, grid_w):
    options = tubes(2, (2, 3)) | {"spatial_scale": (0.05, 0.15)}
    assert_all_valid(seed, jm.spatiotemporal_mask, (frames, grid_h, grid_w), **options)


_RATIOS = st.floats(0.1, 0.8, exclude_max=True)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(seeds, st.integers(4, 15), st.integers(4, 15), _RATIOS, st.integers(1, 5))
def test_prop_multi_block_mask_always_valid(seed, grid_h, grid_w, mask_ratio, num_blocks):
    options = squares(mask_ratio, num_blocks)
    assert_all_valid(seed, jm.multi_block_mask, (grid_h, grid_w), **options)
