"""A box mask is a union of boxes of its extents, inside the grid or centered on its tokens."""

import jax
import numpy as np
import pytest
from cases import first_fast, slow
from scipy import stats
from transcription import box_mask, keys_and_words

import jepa_masks_jax as jm

KEY = jax.random.key(0)


@pytest.mark.parametrize("placement", ["inside", "centered"])
@pytest.mark.parametrize(
    ("grid", "num_boxes", "extent"),
    first_fast(
        [
            ((9, 7), 2, (3, None)),
            ((9, 7), 40, ((1, 3), 2)),
            ((3, 2, 4, 5), 3, (1, None, (1, 2), 3)),
            ((40,), 3, ((2, 6),)),
            ((4, 6, 5), 2, ((1, 9), 2, (1, 3))),
            ((3, 3), 2, (None, (2, 3))),
            ((5, 5), 1, (None, None)),
            ((8, 64), 1, (None, 3)),
        ],
        fast=2,
    ),
)
def test_box_mask_is_its_definition(grid, num_boxes, extent, placement):
    keys, words = keys_and_words(0)
    draw = jax.vmap(
        lambda key: jm.box_mask(key, grid, num_boxes=num_boxes, extent=extent, placement=placement)
    )
    masks = np.asarray(jax.jit(draw)(keys))
    for mask, row in zip(masks, words, strict=True):
        np.testing.assert_array_equal(mask, box_mask(row, grid, num_boxes, extent, placement))


def test_centers_are_uniform_over_all_tokens():
    keys = jax.random.split(KEY, 20_000)
    draw = jax.vmap(
        lambda key: jm.box_mask(key, (4, 5), num_boxes=1, extent=(1, 1), placement="centered")
    )
    counts = np.asarray(jax.jit(draw)(keys)).sum(0).ravel()
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("grid", [(2,), slow((1, 2)), slow((2, 1, 1, 1))])
def test_neither_side_is_empty_where_boxes_can_cover_everything(grid):

    @jax.jit
    @jax.vmap
    def draw(key):
        return [
            jm.box_mask(key, grid, num_boxes=3, extent=(extent,) * len(grid))
            for extent in (None, 1, (1, 2))
        ]

    for masks in draw(jax.random.split(KEY, 50)):
        assert set(masks.reshape(50, -1).sum(1).tolist()) == {1}  # of two tokens
