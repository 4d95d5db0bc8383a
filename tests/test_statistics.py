"""Counts, quantiles and coverage of a batch are those of counting one mask at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jepa_masks_jax as jm


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_mask_statistics_of_a_large_batch(asarray):
    rng = np.random.default_rng(0)
    masks = rng.random((16_384, 14, 14)) < rng.random((16_384, 1, 1))
    stats = jm.mask_statistics(asarray(masks))
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    assert (stats.min, stats.max) == (min(counts), max(counts))
    assert stats.mean == pytest.approx(sum(counts) / len(counts), rel=1e-12)
    assert isinstance(stats.min, int)
    assert isinstance(stats.mean, float)
    assert stats.coverage.dtype == np.float64
    set_in = sum(mask.astype(int) for mask in masks)
    np.testing.assert_allclose(stats.coverage, set_in / 16_384, rtol=1e-12)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9)))
def test_mask_statistics_of_any_batch(masks):
    stats = jm.mask_statistics(masks)
    counts = sorted(int(np.count_nonzero(mask)) for mask in masks)
    assert (stats.min, stats.max) == (counts[0], counts[-1])
    assert stats.mean == pytest.approx(sum(counts) / len(counts))
    assert stats.coverage.shape == masks.shape[1:]
    assert stats.coverage.sum() == pytest.approx(stats.mean)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=120))
def test_quantiles_are_the_least_counts_that_enough_masks_do_not_exceed(counts):
    masks = np.arange(12) < np.array(counts)[:, None]
    quantiles = jm.mask_statistics(masks).quantiles
    assert list(quantiles) == [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    for percent in (1, 5, 25, 50, 75, 95, 99):
        enough = [
            c for c in counts if 100 * sum(other <= c for other in counts) >= percent * len(counts)
        ]
        assert quantiles[percent / 100] == min(enough)
        assert type(quantiles[percent / 100]) is int
