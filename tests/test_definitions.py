"""Every strategy draws the masks of its definition in plain NumPy, and sizes worked by hand."""

import functools
import math

import jax
import numpy as np
import pytest
import transcription
from cases import first_fast
from transcription import keys_and_words

import jepa_masks_jax as jm


def draw(function, keys, grid, **options):
    function = functools.partial(function, grid=grid, **options)
    masks = jax.jit(jax.vmap(function))(keys)
    return jax.tree.map(np.asarray, masks)


BLOCKS_BY_HAND = [
    ((5, 5), 0.2, 1.25, (3, 1)),  # n = 5: sqrt(5 * 1.25) = 2.5, away from zero; 5 // 3 = 1
    ((2, 20), 0.5, 1.25, (2, 4)),  # n = 20: sqrt(20 * 1.25) = 5 is clamped; 20 // 5 = 4
    ((4, 4), 0.02, 1.0, (1, 1)),  # n = round(0.32) = 0
    ((10, 10), 0.05, 8.45, (7, 1)),  # n = 5: sqrt(5 * 8.45) = 6.5, away from zero; 5 // 7 = 0
    ((14, 14), 0.075, 0.01, (1, 1)),  # n = 15: round(sqrt(0.15)) = 0, and so 1 wide
]


@pytest.mark.parametrize(("grid", "scale", "aspect", "size"), BLOCKS_BY_HAND)
def test_the_definition_of_a_block_has_the_sides_worked_by_hand(grid, scale, aspect, size):
    """The masks of these settings are compared with the definition below."""
    n = transcription.round_half_up(math.prod(grid) * scale)
    assert tuple(transcription.clamp(transcription.block_sides(n, aspect), grid)) == size


def assert_matches_transcription(name, grid, options):
    keys, words = keys_and_words(20)
    drawn = jax.tree.leaves(draw(getattr(jm, name), keys, grid, **options))
    for i in range(100):
        expected = getattr(transcription, name)(words[i], grid, **options)
        for got, wanted in zip(drawn, expected if len(drawn) > 1 else [expected], strict=True):
            np.testing.assert_array_equal(got[i], wanted, err_msg=f"key {i}")


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {}),
            ((5, 70), {"target_scale": (0.3, 0.9)}),
            ((4, 9, 7), {"num_targets": 3}),
            (
                (3, 100),
                {"num_targets": 2, "target_scale": (0.5, 1.0), "target_aspect_ratio": (0.1, 1)},
            ),
            ((37, 5), {"num_targets": 2, "target_scale": (0.3, 0.9)}),
            (
                (4, 64),
                {"num_targets": 1, "target_scale": (0.1, 1), "target_aspect_ratio": (0.02, 4)},
            ),
            ((1, 40), {"target_scale": (0.3, 1.0)}),
            ((40, 1), {"target_scale": (0.3, 1.0), "target_aspect_ratio": (0.5, 9.0)}),
            (
                (2, 2),
                {"num_targets": 1, "target_scale": (0.25, 0.5), "target_aspect_ratio": (1, 1)},
            ),
            ((2, 3), {"target_scale": (1.0, 1.0), "target_aspect_ratio": (0.4, 2.5)}),
            ((9, 10), {"target_scale": (0.7, 0.7), "target_aspect_ratio": (0.9, 0.9)}),
            ((4, 4), {"target_scale": (0.01, 0.1)}),
            (
                (6, 6),
                {"num_targets": 1, "target_scale": (0.06, 0.06), "target_aspect_ratio": (0.1, 1.0)},
            ),
            (
                (14, 14),
                {
                    "num_targets": 1,
                    "target_scale": (0.075,) * 2,
                    "target_aspect_ratio": (0.01, 0.02),
                },
            ),
            ((9, 9), {"num_targets": 40, "target_scale": (0.5, 0.9)}),
            *(
                (
                    grid,
                    {
                        "num_targets": 1,
                        "target_scale": (scale, scale),
                        "target_aspect_ratio": (aspect, aspect),
                    },
                )
                for grid, scale, aspect, _ in BLOCKS_BY_HAND
            ),
        ],
        fast=2,
    ),
    ids=str,
)
def test_block_mask_is_its_definition(grid, options):
    assert_matches_transcription("block_mask", grid, options)


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
def test_spatiotemporal_mask_is_its_definition(grid, options):
    assert_matches_transcription("spatiotemporal_mask", grid, options)


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
def test_multi_block_mask_is_its_definition(grid, options):
    assert_matches_transcription("multi_block_mask", grid, options)


_TOPPED_UP = {"num_targets": 3, "context_scale": (0.05, 0.3), "min_keep": 15}


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {}),
            ((9, 9), _TOPPED_UP | {"sampling": "reference"}),
            ((14, 14), {"sampling": "reference"}),
            ((9, 9), _TOPPED_UP),
            ((3, 40), _TOPPED_UP),
            ((37, 5), _TOPPED_UP),
            ((7, 40), {"allow_overlap": True, "num_targets": 2}),
            ((1, 64), {"min_keep": 16, "target_aspect_ratio": (0.1, 9.0)}),
            ((64, 2), {"min_keep": 10, "target_aspect_ratio": (0.5, 5.0)}),
            ((70,), {}),
            ((1214,), {"num_targets": 2}),
            ((40,), _TOPPED_UP),
            ((33,), {"allow_overlap": True, "target_scale": (0.01, 0.4)}),
            (
                (5, 5),
                {"num_targets": 2, "target_scale": (0.2, 0.2), "target_aspect_ratio": (0.8, 0.8)},
            ),
            ((2, 2), {"num_targets": 1, "target_scale": (0.2, 0.6), "min_keep": 1}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_ijepa_masks_are_their_definition(grid, options):
    assert_matches_transcription("ijepa_masks", grid, options)


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((8, 14, 14), {}),
            (
                (4, 5, 5),
                {"num_blocks": 3, "spatial_scale": (0.5, 1.0), "temporal_scale": (0.3, 1.0)},
            ),
            ((8, 14, 14), {"num_blocks": 2, "spatial_scale": (0.7, 0.7)}),
            ((4, 5, 5), {"num_blocks": 2, "spatial_scale": (0.5, 1.0)}),
            (
                (6, 8, 8),
                {
                    "temporal_scale": (0.2, 0.7),
                    "spatial_scale": (0.1, 0.6),
                    "max_temporal_keep": 0.7,
                },
            ),
            (
                (3, 4, 4),
                {"spatial_scale": (1, 1), "aspect_ratio": (1, 1), "max_temporal_keep": 0.7},
            ),
            (
                (8, 4, 4),  # one block can cover the two frames that are kept, not the clip
                {
                    "num_blocks": 1,
                    "spatial_scale": (1.0, 1.0),
                    "temporal_scale": (0.5, 0.5),
                    "aspect_ratio": (1.0, 1.0),
                    "max_temporal_keep": 0.25,
                },
            ),
            ((8, 4, 4), {"num_blocks": 2, "max_temporal_keep": 0.1}),
            ((12, 35), {"num_blocks": 3}),
            ((5, 70), {"num_blocks": 3, "spatial_scale": (0.3, 0.9)}),
            (
                (2, 1, 32),
                {"spatial_scale": (0.3, 1.0), "aspect_ratio": (0.01, 1.0), "num_blocks": 2},
            ),
            ((70,), {"num_blocks": 3}),
            ((9,), {"spatial_scale": (0.01, 1.0)}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_vjepa_mask_is_its_definition(grid, options):
    assert_matches_transcription("vjepa_mask", grid, options)


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((100,), {"mask_ratio": 0.65, "span": 10}),
            ((37,), {"mask_ratio": 0.01, "span": 3}),
            ((20,), {"mask_ratio": 0.5, "span": 1}),
            ((9,), {"mask_ratio": 0.1, "span": 8}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_span_mask_is_its_definition(grid, options):
    assert_matches_transcription("span_mask", grid, options)


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
def test_inverse_block_mask_is_its_definition(grid, options):
    assert_matches_transcription("inverse_block_mask", grid, options)


@pytest.mark.parametrize(
    ("grid", "options", "least", "most"),
    first_fast(
        [
            ((9, 12), {"mask_ratio": (0.1, 0.5), "min_block": 4, "max_block": 30}, 11, 54),
            ((14, 14), {"num_masked": 75}, 75, 75),
            ((12, 9), {"num_masked": (1, 107), "min_block": 1, "aspect_ratio": (0.5, 3)}, 1, 107),
            ((7, 7), {"num_masked": 5, "min_block": 49, "aspect_ratio": (1.0, 1.0)}, 5, 5),
            ((2, 3), {"num_masked": 3, "min_block": 1}, 3, 3),
            (  # areas of exactly 16, where products come closest to 32 bits
                (14, 14),
                {"num_masked": 64, "min_block": 16, "max_block": 16, "aspect_ratio": (1, 1)},
                64,
                64,
            ),
            ((14, 14), {"num_masked": 48, "max_block": 16, "aspect_ratio": (0.5, 1)}, 48, 48),
        ],
        fast=1,
    ),
    ids=str,
)
def test_blockwise_mask_is_its_definition(grid, options, least, most):
    keys, words = keys_and_words(20)
    drawn = draw(jm.blockwise_mask, keys, grid, **options)
    others = {name: options[name] for name in options if name not in ("num_masked", "mask_ratio")}
    for i in range(100):
        expected = transcription.blockwise_mask(words[i], grid, least, most, **others)
        np.testing.assert_array_equal(drawn[i], expected, err_msg=f"key {i}")


def block_size(masks):
    """The extent along each axis of masks that are one block each, all of one size."""
    sizes = set()
    for mask in masks:
        corners = [(at.min(), at.max() + 1) for at in np.nonzero(mask)]
        assert mask[tuple(slice(start, stop) for start, stop in corners)].all()
        sizes.add(tuple(int(stop - start) for start, stop in corners))
    (size,) = sizes
    return size


@pytest.fixture
def keys():
    return keys_and_words(20)[0]


@pytest.mark.slow
def test_tube_size_worked_by_hand(keys):
    masks = draw(
        jm.spatiotemporal_mask,
        keys,
        (3, 4, 40),
        num_targets=1,
        temporal_extent=(5, 5),  # of 3 frames
        spatial_scale=(0.5, 0.5),  # n = 80, a side of round(8.94)
    )
    assert block_size(masks) == (3, 4, 9)


@pytest.mark.slow
def test_multi_block_square_of_a_ratio_halfway_between_two_counts(keys):
    # round(12.5) = 13, away from zero, and round(sqrt(13)) = 4; of 12 it is 3.
    masks = draw(jm.multi_block_mask, keys, (5, 5), mask_ratio=0.5, num_blocks=1)
    assert block_size(masks) == (4, 4)


@pytest.mark.slow
def test_vjepa_keeps_a_frame_that_may_be_context(keys):
    context = ~draw(jm.vjepa_mask, keys, (8, 4, 4), num_blocks=2, max_temporal_keep=0.1)
    assert context[:, 0].any(axis=(1, 2)).all()
    assert not context[:, 1:].any()


def test_multi_block_square_stands_in_one_of_four_places_in_every_frame(keys):
    masks = draw(jm.multi_block_mask, keys, (2, 3, 3), mask_ratio=0.44, num_blocks=1)
    assert {tuple(np.flatnonzero(mask).tolist()) for mask in masks} == {
        (0, 1, 3, 4, 9, 10, 12, 13),
        (1, 2, 4, 5, 10, 11, 13, 14),
        (3, 4, 6, 7, 12, 13, 15, 16),
        (4, 5, 7, 8, 13, 14, 16, 17),
    }


@pytest.mark.slow
def test_ijepa_reference_context_block_is_always_the_top_left_13x13(keys):
    masks = draw(jm.ijepa_masks, keys, (14, 14), allow_overlap=True, sampling="reference")
    assert masks.context[:, :13, :13].all()
    assert (masks.context.sum(axis=(1, 2)) == 13 * 13).all()


def test_vjepa_block_lasts_two_of_eight_frames_and_late_frames_are_all_target(keys):
    masks = draw(
        jm.vjepa_mask,
        keys,
        (8, 4, 4),
        num_blocks=1,
        spatial_scale=(0.25, 0.25),
        temporal_scale=(0.3, 0.3),  # floor(2.4)
        aspect_ratio=(1.0, 1.0),
        max_temporal_keep=0.45,  # floor(3.6)
    )
    assert masks[:, 3:].all()
    early = masks[:, :3].reshape(len(masks), 3, 16).sum(axis=2)
    assert {tuple(counts.tolist()) for counts in early} == {
        (4, 4, 0),
        (0, 4, 4),
        (0, 0, 4),
        (0, 0, 0),
    }


@pytest.mark.parametrize(
    ("function", "grid", "shape", "options", "least", "most"),
    first_fast(
        [
            (jm.random_mask, (5, 5), (5, 5), {"mask_ratio": 0.5}, 12, 12),  # 12.5, half to even
            (jm.random_tube_mask, (3, 4, 5), (4, 5), {"mask_ratio": 0.9}, 18, 18),
            (jm.object_mask, 9, (9,), {"num_masked": (1, 8)}, 1, 8),
            (jm.random_mask, (14, 14), (14, 14), {"mask_ratio": 0.75}, 147, 147),
            (jm.random_mask, (3, 5, 7), (3, 5, 7), {"mask_ratio": 0.4}, 42, 42),
            (jm.random_mask, (3, 5), (3, 5), {"mask_ratio": 0.5}, 8, 8),  # 7.5, half to even
            (jm.random_mask, (2, 7), (2, 7), {"mask_ratio": 0.26}, 4, 4),  # 3.64
            (jm.random_mask, (2, 2), (2, 2), {"mask_ratio": 0.01}, 1, 1),
            (jm.random_mask, (2, 2), (2, 2), {"mask_ratio": 0.99}, 3, 3),
            (jm.object_mask, 7, (7,), {"num_masked": 2}, 2, 2),
        ],
        fast=3,
    ),
)
def test_random_subsets_are_their_definition(function, grid, shape, options, least, most):
    keys, words = keys_and_words(20)
    draw = jax.vmap(lambda key: function(key, grid, **options))
    masks = np.asarray(jax.jit(draw)(keys))
    for i in range(0, 100, 5):
        expected = transcription.random_mask(words[i], shape, least, most)
        np.testing.assert_array_equal(masks[i], np.broadcast_to(expected, masks[i].shape))
