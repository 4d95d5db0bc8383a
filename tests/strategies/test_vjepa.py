"""The masks of `vjepa_mask`.

Their definition, values worked by hand, sides worked out again from the words of a key, the law,
and when blocks are placed again.
"""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from cases import first_fast
from sampling import (
    assert_corner_is_uniform,
    assert_defined,
    assert_token_left_is_uniform,
    sampled,
)
from search import (
    DEFAULT,
    LARGEST,
    SIZES,
    all_sides,
    assert_sides_are_those_of_the_words,
    of_every_size,
    random_settings,
    sides_in,
)
from transcription import keys_and_words

import jepa_masks_jax as jm
from jepa_masks_jax.presets import vjepa_long_range

WHOLE = {"spatial_scale": (1, 1), "aspect_ratio": (1, 1)}
HALF = {"num_blocks": 1, "temporal_scale": (0.5, 0.5)}
# One block can cover the two frames that are kept, not the clip.
KEPT_FRAMES_COVERED = HALF | WHOLE | {"max_temporal_keep": 0.25}
PARTIAL = {"temporal_scale": (0.2, 0.7), "spatial_scale": (0.1, 0.6), "max_temporal_keep": 0.7}
WIDE = {"spatial_scale": (0.3, 1.0), "aspect_ratio": (0.01, 1.0)}


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((8, 14, 14), {}),
            ((4, 5, 5), {"num_blocks": 3, "spatial_scale": (0.5, 1), "temporal_scale": (0.3, 1)}),
            ((8, 14, 14), {"num_blocks": 2, "spatial_scale": (0.7, 0.7)}),
            ((4, 5, 5), {"num_blocks": 2, "spatial_scale": (0.5, 1.0)}),
            ((6, 8, 8), PARTIAL),
            ((3, 4, 4), WHOLE | {"max_temporal_keep": 0.7}),
            ((8, 4, 4), KEPT_FRAMES_COVERED),
            ((8, 4, 4), {"num_blocks": 2, "max_temporal_keep": 0.1}),
            ((12, 35), {"num_blocks": 3}),
            ((5, 70), {"num_blocks": 3, "spatial_scale": (0.3, 0.9)}),
            ((2, 1, 32), WIDE | {"num_blocks": 2}),
            ((70,), {"num_blocks": 3}),
            ((9,), {"spatial_scale": (0.01, 1.0)}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_definition(grid, options):
    assert_defined(jm.vjepa_mask, grid, **options)


# Right values


@pytest.mark.slow
def test_a_frame_is_kept_that_may_be_context():
    context = ~sampled(jm.vjepa_mask, (8, 4, 4), num_blocks=2, max_temporal_keep=0.1)
    assert context[:, 0].any(axis=(1, 2)).all()
    assert not context[:, 1:].any()


def test_a_block_lasts_two_of_eight_frames_and_late_frames_are_all_target():
    options = {"spatial_scale": (0.25, 0.25), "aspect_ratio": (1, 1), "num_blocks": 1}
    options |= {"temporal_scale": (0.3, 0.3), "max_temporal_keep": 0.45}  # of 8: 2.4 and 3.6
    masks = sampled(jm.vjepa_mask, (8, 4, 4), **options)
    assert masks[:, 3:].all()
    early = masks[:, :3].reshape(len(masks), 3, 16).sum(axis=2)
    expected = {(4, 4, 0), (0, 4, 4), (0, 0, 4), (0, 0, 0)}
    assert set(map(tuple, early.tolist())) == expected


def test_a_context_is_left_where_blocks_cover_whole_frames():
    masks = sampled(jm.vjepa_mask, (8, 4, 4), **KEPT_FRAMES_COVERED)
    assert (~masks).any((1, 2, 3)).all()


def test_one_frame_is_an_image():
    frame = sampled(jm.vjepa_mask, (1, 8, 8), temporal_scale=(0.5, 0.5))
    np.testing.assert_array_equal(frame[:, 0], sampled(jm.vjepa_mask, (8, 8)))


# Sides


@pytest.fixture(scope="module")
def blocks():
    """One long block of every size."""
    return of_every_size(
        lambda key, size: vjepa_long_range(key, LARGEST, num_blocks=1, within=size)
    )


def assert_long_blocks(masks, frame):
    _, words = keys_and_words(30)
    assert_sides_are_those_of_the_words(masks, words[:, 1:3], frame, (0.7, 0.7), DEFAULT)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sides_are_those_of_the_words(blocks, size):
    assert_long_blocks(blocks[size], size)


@pytest.mark.parametrize(
    ("size", "share"),
    [((16, 32), 0.688), ((8, 32), 0.688), ((8, 64), 0.703), ((27, 31), 0.701)],
    ids=str,
)
def test_mean_share_of_the_grid(blocks, size, share):
    assert blocks[size].mean() * math.prod(LARGEST) / math.prod(size) == pytest.approx(
        share, abs=0.01
    )


@pytest.mark.parametrize(
    "frame", [(1, 300), pytest.param((4, 128), marks=pytest.mark.slow)], ids=str
)
def test_no_frame_is_too_thin(frame):
    clip = sampled(vjepa_long_range, (2, *frame), keys=keys_and_words(30)[0], num_blocks=1)
    np.testing.assert_array_equal(clip[:, 0], clip[:, 1])
    assert_long_blocks(clip[:, 0], frame)


def test_a_square_grid_cuts_without_extending_worked_by_hand(blocks):
    # 0.7 of 24x24 is n = 403: from an aspect ratio of 24.5**2 / 403 on the height is cut.
    assert sides_in((24, 24), 403, Fraction("1.49")) == (24, 16)
    assert sides_in((24, 25), 403, Fraction("1.49")) == (24, 17)
    masks = blocks[24, 24]
    sides = zip(masks.any(2).sum(1).tolist(), masks.any(1).sum(1).tolist(), strict=True)
    assert (24, 16) in sides


# The law


@pytest.mark.slow
def test_corner():
    options = HALF | {"spatial_scale": (0.4, 0.4), "aspect_ratio": (1.0, 1.0)}
    assert_corner_is_uniform(jm.vjepa_mask, (5, 6, 7), size=(2, 4, 4), **options)


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "num_tokens"), [(1.0, 3 * 16), (0.7, 2 * 16)])
def test_the_token_left_by_a_full_cover_of_the_frames_that_may_be_context(keep, num_tokens):
    options = WHOLE | {"max_temporal_keep": keep}
    assert_token_left_is_uniform(jm.vjepa_mask, (3, 4, 4), num_tokens, **options)


# Placed again


def words_drawn(function):
    """How many words a mask is made of, from the program."""
    program = jax.make_jaxpr(function)(jax.random.key(0))

    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "random_bits":
                yield equation.params["shape"]
            for value in equation.params.values():
                if hasattr(getattr(value, "jaxpr", value), "eqns"):
                    yield from shapes(getattr(value, "jaxpr", value))

    return sum(math.prod(shape) for shape in shapes(program.jaxpr))


def can_cover(frame, num_blocks, scale, aspect):
    """Blocks of one size cover a frame if there are as many as points of which none share one."""
    return any(
        num_blocks >= math.prod(-(-most // side) for side, most in zip(sides, frame, strict=True))
        for sides in all_sides(frame, scale, aspect)
    )


def assert_placed_again(grid, num_blocks, scale, aspect):
    """Exactly if blocks can cover a frame."""
    options = {"num_blocks": num_blocks, "spatial_scale": scale, "aspect_ratio": aspect}
    words = words_drawn(lambda key: jm.vjepa_mask(key, grid, **options))
    covered = can_cover(grid[-2:], num_blocks, scale, aspect)
    assert words == max(3 + 2 * num_blocks * (4 if covered else 1) + 1, 16), (grid, options)
    return covered


PLACED = [
    ((2, 8, 8), 2, (0.7, 0.7), DEFAULT),
    ((2, 8, 16), 2, (0.7, 0.7), DEFAULT),
    ((2, 8, 32), 2, (0.7, 0.7), DEFAULT),
    ((14, 14), 2, (0.7, 0.7), DEFAULT),
    ((14, 14), 8, (0.15, 0.15), DEFAULT),
    ((4, 14), 8, (0.15, 0.15), DEFAULT),
    ((3, 10), 7, (0.15, 0.15), DEFAULT),
    ((3, 10), 5, (0.05, 0.21), DEFAULT),
    ((5, 6), 4, (0.2, 0.3), DEFAULT),
    ((5, 6), 4, (0.2, 0.26), (1.0, 1.0)),
    ((6, 6), 4, (0.2, 0.26), (1.0, 1.0)),
    ((7, 6), 9, (0.1, 0.15), (0.3, 0.6)),
    ((4, 9), 3, (0.3, 0.34), (0.5, 2.0)),
    ((9, 4), 3, (0.3, 0.33), (2.0, 5.0)),
    ((2, 5), 3, (0.2, 0.4), DEFAULT),
    ((1, 9), 3, (0.2, 0.33), DEFAULT),
    ((1, 9), 3, (0.2, 0.34), DEFAULT),
    ((12, 13), 2, (0.3, 0.5), DEFAULT),
    ((12, 13), 2, (0.3, 0.54), (0.1, 1.0)),
]


@pytest.mark.parametrize(("grid", "num_blocks", "scale", "aspect"), PLACED, ids=str)
def test_blocks_are_placed_again_exactly_if_they_can_cover_a_frame(grid, num_blocks, scale, aspect):
    assert_placed_again(grid, num_blocks, scale, aspect)


@pytest.mark.slow
def test_blocks_of_many_settings_are_placed_again_exactly_if_they_can_cover_a_frame():
    assert {assert_placed_again(*setting) for setting in random_settings(150)} == {True, False}


def test_two_blocks_of_a_wide_frame_never_hide_all_of_it():
    """Two blocks of 0.7 of 4x16 are 4 by 11: one in five pairs covers it, and is placed again."""
    count = sampled(vjepa_long_range, (4, 16)).sum((1, 2))
    assert np.all((count >= 44) & (count < 64))
