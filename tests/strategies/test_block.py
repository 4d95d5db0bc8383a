"""The masks of `block_mask`: their definition, sides worked by hand, and their law."""

import math

import numpy as np
import pytest
import transcription
from cases import first_fast, slow
from sampling import (
    CHANCE,
    assert_corner_is_uniform,
    assert_defined,
    assert_token_left_is_uniform,
    sampled,
)
from scipy import stats

import jepa_masks_jax as jm

BY_HAND = [
    ((5, 5), 0.2, 1.25, (3, 1)),  # n = 5: sqrt(5 * 1.25) = 2.5, away from zero; 5 // 3 = 1
    ((2, 20), 0.5, 1.25, (2, 4)),  # n = 20: sqrt(20 * 1.25) = 5 is clamped; 20 // 5 = 4
    ((4, 4), 0.02, 1.0, (1, 1)),  # n = round(0.32) = 0
    ((10, 10), 0.05, 8.45, (7, 1)),  # n = 5: sqrt(5 * 8.45) = 6.5, away from zero; 5 // 7 = 0
    ((14, 14), 0.075, 0.01, (1, 1)),  # n = 15: round(sqrt(0.15)) = 0, and so 1 wide
]


def setting(grid, num_targets=4, scale=(0.15, 0.2), aspect=(0.75, 1.5)):
    options = {"target_scale": scale, "target_aspect_ratio": aspect}
    return grid, {"num_targets": num_targets, **options}


@pytest.mark.parametrize(("grid", "scale", "aspect", "size"), BY_HAND)
def test_the_definition_of_a_block_has_the_sides_worked_by_hand(grid, scale, aspect, size):
    """The masks of these settings are compared with the definition below."""
    n = transcription.round_half_up(math.prod(grid) * scale)
    assert tuple(transcription.clamp(transcription.block_sides(n, aspect), grid)) == size


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {}),
            ((5, 70), {"target_scale": (0.3, 0.9)}),
            # Blocks of 3x3 to 5x1 and 2x4: whether one covers all takes the bounds of both sides.
            setting((3, 3), 1, (1, 1), (0.4, 2.5)),
            # Blocks of no token, or of four below one another: the highest is not the largest.
            setting((4, 1), 1, (0.1, 1), (4, 9)),
            # A block of no token is drawn as one token.
            setting((4, 4), 4, (0.01, 0.1), (0.5, 9)),
            setting((4, 4), 1, (0.01, 0.1), (0.5, 9)),
            setting((4, 1), 4, (0.1, 1), (4, 9)),
            # The smallest block is one token, the largest all four.
            setting((2, 2), 1, (0.2, 1), (0.4, 2.5)),
            ((4, 9, 7), {"num_targets": 3}),
            setting((3, 100), 2, (0.5, 1.0), (0.1, 1)),
            setting((37, 5), 2, (0.3, 0.9)),
            setting((4, 64), 1, (0.1, 1), (0.02, 4)),
            ((1, 40), {"target_scale": (0.3, 1.0)}),
            setting((40, 1), 4, (0.3, 1.0), (0.5, 9.0)),
            setting((2, 2), 1, (0.25, 0.5), (1, 1)),
            setting((2, 3), 4, (1.0, 1.0), (0.4, 2.5)),
            setting((9, 10), 4, (0.7, 0.7), (0.9, 0.9)),
            ((4, 4), {"target_scale": (0.01, 0.1)}),
            setting((6, 6), 1, (0.06, 0.06), (0.1, 1.0)),
            setting((14, 14), 1, (0.075, 0.075), (0.01, 0.02)),
            setting((9, 9), 40, (0.5, 0.9)),
            *(setting(grid, 1, (scale,) * 2, (aspect,) * 2) for grid, scale, aspect, _ in BY_HAND),
        ],
        fast=5,
    ),
    ids=str,
)
def test_definition(grid, options):
    masks = assert_defined(jm.block_mask, grid, **options)
    assert masks.any(tuple(range(1, masks.ndim))).all()
    assert not masks.all(tuple(range(1, masks.ndim))).any()


@pytest.mark.slow
def test_corner():
    _, options = setting((9, 7), 1, (0.2, 0.2), (1.0, 1.0))
    assert_corner_is_uniform(jm.block_mask, (9, 7), size=(4, 3), **options)


@pytest.mark.slow
def test_the_token_left_by_a_full_cover():
    _, options = setting((4, 4), 1, (1, 1), (1, 1))
    assert_token_left_is_uniform(jm.block_mask, (4, 4), **options)


def seed_block_mask(rng, grid, num_targets, target_scale, target_aspect_ratio):
    """The Rust module's BlockMasking, drawn from NumPy's own generator."""
    height, width = grid
    target = np.zeros(grid, bool)
    for _ in range(num_targets):
        scale = target_scale[0] + rng.random() * (target_scale[1] - target_scale[0])
        low, high = target_aspect_ratio
        aspect = low + rng.random() * (high - low)
        num_patches = math.floor(height * width * scale / num_targets + 0.5)
        block_h = math.floor(math.sqrt(num_patches * aspect) + 0.5)
        block_w = max(num_patches // block_h, 1) if block_h > 0 else 1
        block_h, block_w = min(max(block_h, 1), height), min(max(block_w, 1), width)
        top, left = rng.integers(height - block_h + 1), rng.integers(width - block_w + 1)
        target[top : top + block_h, left : left + block_w] = True
    if target.all():
        target.flat[rng.integers(target.size)] = False
    return target


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        slow(*setting((14, 14))),
        slow(*setting((3, 40), 2, (0.5, 1.0), (0.2, 0.9))),
        slow(*setting((2, 3), 4, (0.9, 1.0), (0.4, 2.5))),
    ],
    ids=str,
)
def test_counts_and_coverage_are_those_of_the_seed(grid, options):
    ours = sampled(jm.block_mask, grid, keys=10_000, **options)
    rng = np.random.default_rng(32)
    seeds = np.array([seed_block_mask(rng, grid, **options) for _ in ours])

    histograms = np.array(
        [np.bincount(masks.sum((1, 2)), minlength=math.prod(grid)) for masks in (ours, seeds)]
    )
    rare = histograms.sum(0) < 50
    table = np.column_stack([histograms[:, ~rare], histograms[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    assert stats.chi2_contingency(table).pvalue > CHANCE / 2

    difference = ours.mean(0) - seeds.mean(0)
    deviation = np.sqrt((ours.var(0) + seeds.var(0)) / len(ours))
    worst = stats.norm.isf(CHANCE / 4 / math.prod(grid))
    assert (np.abs(difference) < worst * deviation).all()
