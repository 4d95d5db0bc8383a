"""Settings at the edge of what a strategy can draw: masks that could come out full, empty or wrong.

Each of these settings reaches one bound, clamp or rounding that no other test needs.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from cases import first_fast

import jepa_masks_jax as jm

KEY = jax.random.key(0)
ONE = {"num_targets": 1}


def drawn(function, grid, **options):
    """The masks of a batch of keys, and the random words that they are made of."""
    keys, words = transcription.keys_and_words(0)
    masks = jax.jit(jax.vmap(functools.partial(function, grid=grid, **options)))(keys)
    return jax.tree.map(np.asarray, masks), words


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            # Blocks of 3x3 to 5x1 and 2x4: whether one covers all takes the bounds of both sides.
            ((3, 3), ONE | {"target_scale": (1, 1), "target_aspect_ratio": (0.4, 2.5)}),
            # Blocks of no token, or of four below one another: the highest is not the largest.
            ((4, 1), ONE | {"target_scale": (0.1, 1), "target_aspect_ratio": (4, 9)}),
            # A block of no token is drawn as one token.
            ((4, 4), {"target_scale": (0.01, 0.1), "target_aspect_ratio": (0.5, 9)}),
            ((4, 4), ONE | {"target_scale": (0.01, 0.1), "target_aspect_ratio": (0.5, 9)}),
            ((4, 1), {"target_scale": (0.1, 1), "target_aspect_ratio": (4, 9)}),
            # The smallest block is one token, the largest all four.
            ((2, 2), ONE | {"target_scale": (0.2, 1), "target_aspect_ratio": (0.4, 2.5)}),
        ],
        fast=3,
    ),
    ids=str,
)
def test_block_mask(grid, options):
    masks, words = drawn(jm.block_mask, grid, **options)
    for mask, row in zip(masks, words, strict=True):
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(mask, transcription.block_mask(row, grid, **options))


def test_a_box_that_only_its_longest_side_makes_cover_everything():
    masks, _ = drawn(jm.box_mask, (4,), num_boxes=1, extent=((1, 4),))
    assert set(masks.sum(1).tolist()) == {1, 2, 3}


@pytest.mark.slow
def test_blockwise_mask_of_flat_blocks_stays_in_32_bits():
    options = {"min_block": 4, "aspect_ratio": (0.05, 0.2)}
    masks, words = drawn(jm.blockwise_mask, (14, 14), num_masked=90, **options)
    for mask, row in zip(masks, words, strict=True):
        expected = transcription.blockwise_mask(row, (14, 14), 90, 90, **options)
        np.testing.assert_array_equal(mask, expected)


def test_an_inverse_block_as_wide_as_the_grid_is_no_wider():
    # sqrt(27 / 0.12) is 15, the width of the grid, and above it in floating point.
    masks, _ = drawn(jm.inverse_block_mask, (2, 15), num_masked=3, aspect_ratio=(0.05, 0.12))
    assert (masks.sum((1, 2)) == 3).all()


def test_an_inverse_block_of_whole_sides_is_no_higher():
    # 45 visible tokens of aspect ratio 5 are 15x3, in 6 * 3 places.
    options = {"num_masked": 55, "aspect_ratio": (5, 5), "roll": False}
    masks, _ = drawn(jm.inverse_block_mask, (20, 5), **options)
    expected = set()
    for top, left in itertools.product(range(6), range(3)):
        mask = np.ones((20, 5), bool)
        mask[top : top + 15, left : left + 3] = False
        expected.add(mask.tobytes())
    assert {mask.tobytes() for mask in masks} == expected


@pytest.mark.parametrize(
    ("grid", "count", "expected"),
    [
        ((14, 14), jnp.int8(100), 100),  # of 195 at most, which int8 does not hold
        ((3, 4), jnp.uint32(2**32 - 1), 11),  # -1 as int32
    ],
)
def test_a_count_in_an_integer_narrower_or_wider_than_the_tokens(grid, count, expected):
    assert jm.random_mask(KEY, grid, num_masked=count).sum() == expected


def test_a_pair_of_equal_ratios_is_one_ratio():
    mask = jm.random_mask(KEY, (14, 14), mask_ratio=(0.3, 0.3))
    np.testing.assert_array_equal(mask, jm.random_mask(KEY, (14, 14), mask_ratio=0.3))


def test_the_smallest_context_block_is_one_token():
    options = {"allow_overlap": True, "context_scale": (0.001, 0.01), "min_keep": 1}
    masks, _ = drawn(jm.ijepa_masks, (8, 8), **options)
    assert (masks.context.sum((1, 2)) == 1).all()


def test_the_reference_leaves_what_its_largest_target_does():
    # Blocks are smaller than the grid, so the target has 4x4 of 5x5 tokens.
    options = {"num_targets": 1, "target_scale": (1, 1), "target_aspect_ratio": (1, 1)}
    masks, _ = drawn(jm.ijepa_masks, (5, 5), min_keep=9, sampling="reference", **options)
    assert (masks.context.sum((1, 2)) == 9).all()
    with pytest.raises(ValueError, match="min_keep to 9"):
        jm.ijepa_masks(KEY, (5, 5), min_keep=10, sampling="reference", **options)


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((6, 6), {"num_targets": 8}),
        ((4, 4), {"num_targets": 1, "target_scale": (1, 1), "target_aspect_ratio": (1, 1)}),
    ],
)
def test_a_refusal_advises_no_zero_and_counts_nothing_below_zero(grid, options):
    with pytest.raises(ValueError, match="min_keep") as caught:
        jm.ijepa_masks(KEY, grid, **options)
    message = str(caught.value)
    assert " to 0" not in message.replace(" to 0.", " to .")
    assert "-" not in message
    assert "guarantee the context 0 of" in message
