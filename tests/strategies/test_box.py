"""The masks of `box_mask`: their definition, where boxes stand, and the law of data2vec's loop."""

import jax
import numpy as np
import pytest
from cases import first_fast, slow
from sampling import assert_defined, assert_same_distribution, assert_uniform, counts, sampled

import jepa_masks_jax as jm

CENTERED = {"num_boxes": 1, "extent": (3,), "placement": "centered"}


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
def test_definition(grid, num_boxes, extent, placement):
    options = {"num_boxes": num_boxes, "extent": extent, "placement": placement}
    assert_defined(jm.box_mask, grid, **options)


def test_centers_are_uniform_over_all_tokens():
    options = {"num_boxes": 1, "extent": (1, 1), "placement": "centered"}
    masks = sampled(jm.box_mask, (4, 5), keys=20_000, **options)
    assert_uniform(masks.reshape(len(masks), -1).argmax(1), 20)


def test_centers_are_those_of_the_sample():
    masks = sampled(jm.box_mask, (12,), within=(5,), **CENTERED)
    np.testing.assert_array_equal(masks[:, :5], sampled(jm.box_mask, (5,), **CENTERED))
    assert not masks[:, 5:].any()
    assert masks[:, :5].any(0).all()


@pytest.mark.parametrize("grid", [(2,), slow((1, 2)), slow((2, 1, 1, 1))])
def test_neither_side_is_empty_where_boxes_can_cover_everything(grid):
    def draw(key, grid):
        extents = ((extent,) * len(grid) for extent in (None, 1, (1, 2)))
        return [jm.box_mask(key, grid, num_boxes=3, extent=extent) for extent in extents]

    for masks in sampled(draw, grid, keys=50):
        assert counts(masks) == {1}  # of two tokens


def test_a_box_that_only_its_longest_side_makes_cover_everything():
    assert counts(sampled(jm.box_mask, (4,), num_boxes=1, extent=((1, 4),))) == {1, 2, 3}


def test_the_mask_of_a_single_token_is_empty():
    assert not jm.box_mask(
        jax.random.key(0), (4, 4), num_boxes=1, extent=(1, 1), within=(1, 1)
    ).any()


def test_a_box_counts_in_tokens_whatever_the_size():
    options = {"num_boxes": 1, "extent": ((140, 200),), "within": (50,)}
    assert counts(sampled(jm.box_mask, (200,), **options)) == {49}


def centered_boxes(rng, grid, p, adjust, side):
    """data2vec 2.0: visible squares around random tokens, cut off at the edges; then the number."""
    tokens = grid[0] * grid[1]
    visible = np.zeros(grid, bool)
    for center in rng.integers(tokens, size=int(tokens * (1 - p + adjust) / side**2)):
        top, left = np.array(divmod(center, grid[1])) - side // 2
        visible[max(top, 0) : top + side, max(left, 0) : left + side] = True
    count = int(tokens * (1 - p))
    excess = visible.sum() - count
    chosen = rng.choice(np.flatnonzero(visible == (excess > 0)), abs(excess), replace=False)
    visible.flat[chosen] = excess < 0
    return ~visible


@pytest.mark.parametrize(
    ("grid", "p", "adjust", "side"), [slow((14, 14), 0.8, 0.07, 3), slow((64, 8), 0.8, 0.07, 5)]
)
def test_centered_boxes_and_clip_count_are_the_masks_of_data2vec_and_eat(grid, p, adjust, side):
    tokens = grid[0] * grid[1]
    visible = int(tokens * (1 - p))
    boxes = {"num_boxes": int(tokens * (1 - p + adjust) / side**2), "placement": "centered"}

    def draw(key, grid):
        box_key, clip_key = jax.random.split(key)
        context = jm.box_mask(box_key, grid, extent=(side, side), **boxes)
        return ~jm.clip_count(clip_key, context, exactly=visible)

    rng = np.random.default_rng(56)
    ours = sampled(draw, grid, keys=2000)
    theirs = np.array([centered_boxes(rng, grid, p, adjust, side) for _ in ours])
    assert counts(~ours) == {visible}
    assert_same_distribution(ours, theirs)
