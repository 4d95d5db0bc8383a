"""What is ported from jepa-rs passes the tests of its masking module, by the same names."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jepa_masks_jax as jm

_DRAWS = 16
_EXAMPLES = 5  # each is a grid of its own, and so a program to compile

block_masking = functools.partial(
    jm.block_mask, num_targets=4, target_scale=(0.15, 0.2), target_aspect_ratio=(0.75, 1.5)
)
seeds = st.integers(0, 99_999)


def draw_specs(seed, function, grid, **options):
    """Many masks of one grid."""
    keys = jax.random.split(jax.random.key(seed), _DRAWS)
    draw = jax.vmap(functools.partial(function, grid=grid, **options))
    masks = jax.jit(draw)(keys)
    assert masks.shape == (_DRAWS, *grid)
    return [jm.to_mask_spec(mask) for mask in np.asarray(masks)]


def assert_valid(spec, total):
    spec.validate()
    assert spec.total_tokens == total
    assert len(spec.context_indices) + len(spec.target_indices) == total
    assert len(spec.context_indices) > 0
    assert len(spec.target_indices) > 0


def test_block_masking_partitions_all_patches():
    spec = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    spec.validate()
    assert len(spec.context_indices) + len(spec.target_indices) == 196


def test_block_masking_non_empty_partitions():
    spec = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    assert len(spec.context_indices) > 0
    assert len(spec.target_indices) > 0


def test_block_masking_no_overlap():
    spec = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    assert not set(spec.context_indices.tolist()) & set(spec.target_indices.tolist())


def test_masking_reproducible_with_same_seed():
    spec1 = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    spec2 = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    np.testing.assert_array_equal(spec1.context_indices, spec2.context_indices)
    np.testing.assert_array_equal(spec1.target_indices, spec2.target_indices)


def test_masking_different_with_different_seeds():
    spec1 = jm.to_mask_spec(block_masking(jax.random.key(42), (14, 14)))
    spec2 = jm.to_mask_spec(block_masking(jax.random.key(43), (14, 14)))
    assert spec1.target_indices.tolist() != spec2.target_indices.tolist()


def test_spatiotemporal_masking_valid():
    mask = jm.spatiotemporal_mask(
        jax.random.key(42),
        (8, 14, 14),
        num_targets=2,
        temporal_extent=(2, 4),
        spatial_scale=(0.1, 0.2),
    )
    assert_valid(jm.to_mask_spec(mask), 8 * 196)


def test_multi_block_masking_valid():
    mask = jm.multi_block_mask(jax.random.key(42), (14, 14), mask_ratio=0.5, num_blocks=4)
    assert_valid(jm.to_mask_spec(mask), 196)


def test_block_masking_minimum_grid_2x2():
    mask = jm.block_mask(
        jax.random.key(42),
        (2, 2),
        num_targets=1,
        target_scale=(0.25, 0.5),
        target_aspect_ratio=(1.0, 1.0),
    )
    assert_valid(jm.to_mask_spec(mask), 4)


def test_block_masking_maximum_coverage():
    mask = jm.block_mask(
        jax.random.key(42),
        (4, 4),
        num_targets=10,
        target_scale=(0.8, 0.99),
        target_aspect_ratio=(0.5, 2.0),
    )
    assert_valid(jm.to_mask_spec(mask), 16)


def test_multi_block_masking_very_high_ratio():
    mask = jm.multi_block_mask(jax.random.key(42), (4, 4), mask_ratio=0.99, num_blocks=8)
    assert_valid(jm.to_mask_spec(mask), 16)


def test_spatiotemporal_masking_single_frame():
    mask = jm.spatiotemporal_mask(
        jax.random.key(42),
        (1, 8, 8),
        num_targets=1,
        temporal_extent=(1, 1),
        spatial_scale=(0.1, 0.2),
    )
    assert_valid(jm.to_mask_spec(mask), 64)


def test_spatiotemporal_masking_on_image_shape():
    mask = jm.spatiotemporal_mask(
        jax.random.key(42), (8, 8), num_targets=2, temporal_extent=(1, 1), spatial_scale=(0.1, 0.2)
    )
    assert_valid(jm.to_mask_spec(mask), 64)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(seeds, st.integers(4, 19), st.integers(4, 19), st.integers(1, 5))
def test_prop_block_mask_always_valid(seed, grid_h, grid_w, num_targets):
    specs = draw_specs(
        seed,
        jm.block_mask,
        (grid_h, grid_w),
        num_targets=num_targets,
        target_scale=(0.1, 0.3),
        target_aspect_ratio=(0.75, 1.5),
    )
    total = grid_h * grid_w
    for spec in specs:
        assert_valid(spec, total)
        context, target = spec.context_indices.tolist(), spec.target_indices.tolist()
        assert len(set(context)) == len(context)
        assert len(set(target)) == len(target)
        assert all(0 <= i < total for i in context + target)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(seeds, st.integers(4, 11), st.integers(4, 11), st.integers(4, 11))
def test_prop_spatiotemporal_mask_always_valid(seed, frames, grid_h, grid_w):
    specs = draw_specs(
        seed,
        jm.spatiotemporal_mask,
        (frames, grid_h, grid_w),
        num_targets=2,
        temporal_extent=(2, 3),
        spatial_scale=(0.05, 0.15),
    )
    for spec in specs:
        assert_valid(spec, frames * grid_h * grid_w)


@pytest.mark.slow
@settings(max_examples=_EXAMPLES)
@given(
    seeds,
    st.integers(4, 15),
    st.integers(4, 15),
    st.floats(0.1, 0.8, exclude_max=True),
    st.integers(1, 5),
)
def test_prop_multi_block_mask_always_valid(seed, grid_h, grid_w, mask_ratio, num_blocks):
    specs = draw_specs(
        seed, jm.multi_block_mask, (grid_h, grid_w), mask_ratio=mask_ratio, num_blocks=num_blocks
    )
    for spec in specs:
        assert_valid(spec, grid_h * grid_w)


@given(seeds)
def test_prop_masking_is_deterministic(seed):
    spec1 = jm.to_mask_spec(block_masking(jax.random.key(seed), (14, 14)))
    spec2 = jm.to_mask_spec(block_masking(jax.random.key(seed), (14, 14)))
    np.testing.assert_array_equal(spec1.context_indices, spec2.context_indices)
    np.testing.assert_array_equal(spec1.target_indices, spec2.target_indices)
