"""The masks of `ijepa_masks` and the counts of `ijepa_counts`.

Their definition, sides worked out again from the words of a key, the law, and what a setting can
reach.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import first_fast
from sampling import CHANCE, assert_defined, assert_uniform, corners, counts, sampled
from scipy import stats
from search import (
    DEFAULT,
    LARGEST,
    SIZES,
    areas,
    assert_sides_are_those_of_the_words,
    of_every_size,
    random_settings,
)
from transcription import keys_and_words

import jepa_masks_jax as jm
from jepa_masks_jax import _sizes, _tracing
from jepa_masks_jax.presets import ijepa

KEY = jax.random.key(0)
TOPPED_UP = {"num_targets": 3, "context_scale": (0.05, 0.3), "min_keep": 15}


@pytest.mark.parametrize(
    ("grid", "options"),
    first_fast(
        [
            ((14, 14), {}),
            ((9, 9), TOPPED_UP | {"sampling": "reference"}),
            ((14, 14), {"sampling": "reference"}),
            ((9, 9), TOPPED_UP),
            ((3, 40), TOPPED_UP),
            ((37, 5), TOPPED_UP),
            ((7, 40), {"allow_overlap": True, "num_targets": 2}),
            ((1, 64), {"min_keep": 16, "target_aspect_ratio": (0.1, 9.0)}),
            ((64, 2), {"min_keep": 10, "target_aspect_ratio": (0.5, 5.0)}),
            ((70,), {}),
            ((1214,), {"num_targets": 2}),
            ((40,), TOPPED_UP),
            ((33,), {"allow_overlap": True, "target_scale": (0.01, 0.4)}),
            (
                (5, 5),
                {"num_targets": 2, "target_scale": (0.2,) * 2, "target_aspect_ratio": (0.8,) * 2},
            ),
            ((2, 2), {"num_targets": 1, "target_scale": (0.2, 0.6), "min_keep": 1}),
        ],
        fast=2,
    ),
    ids=str,
)
def test_definition(grid, options):
    assert_defined(jm.ijepa_masks, grid, **options)


# Sides


@pytest.fixture(scope="module")
def blocks():
    """One target and the context of every size."""

    def draw(key, size):
        options = {"num_targets": 1, "allow_overlap": True, "min_keep": 1}
        context, targets = ijepa(key, LARGEST, within=size, **options)
        return targets[0], context

    return of_every_size(draw)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sides_are_those_of_the_words(blocks, size):
    _, words = keys_and_words(30)
    target, context = blocks[size]
    assert_sides_are_those_of_the_words(target, words, size, (0.15, 0.2), DEFAULT)
    assert_sides_are_those_of_the_words(context, words[:, [2, 2]], size, (0.85, 1), (1, 1))


@pytest.mark.parametrize(
    ("size", "target", "context"),
    [
        ((16, 32), 0.174, 0.926),
        ((8, 32), 0.173, 0.925),
        ((8, 64), 0.175, 0.927),
        ((27, 31), 0.174, 0.923),
    ],
    ids=str,
)
def test_mean_shares_of_the_grid(blocks, size, target, context):
    shares = [mask.sum((1, 2)).mean() / math.prod(size) for mask in blocks[size]]
    np.testing.assert_allclose(shares, [target, context], atol=0.01)


@pytest.mark.parametrize(
    "grid", [(1, 300), pytest.param((4, 128), marks=pytest.mark.slow)], ids=str
)
def test_no_grid_is_too_thin(grid):
    keys, words = keys_and_words(30)
    context = sampled(ijepa, grid, keys=keys, allow_overlap=True, num_targets=1).context
    assert_sides_are_those_of_the_words(context, words[:, [2, 2]], grid, (0.85, 1), (1, 1))


def test_the_smallest_context_block_is_one_token():
    options = {"allow_overlap": True, "context_scale": (0.001, 0.01), "min_keep": 1}
    assert counts(sampled(jm.ijepa_masks, (8, 8), **options).context) == {1}


def test_a_side_halfway_between_two_integers_is_rounded_to_the_even_one():
    # sqrt(541,205 * 0.8) is 658, and sqrt(541,205 / 0.8) is 822.5.
    scale = (541_205 / 2000**2,) * 2
    options = {"num_targets": 1, "target_scale": scale, "target_aspect_ratio": (0.8, 0.8)}
    found = jm.ijepa_counts((2000, 2000), **options)
    assert found.target_min == found.target_max == 658 * 822

    @jax.jit
    def sides(word):
        plan = _tracing.planned(_sizes.jepa_blocks, 2000**2, "aspect", scale, (0.8, 0.8))
        return _sizes.sample_jepa_sides(word, word, plan, (2000, 2000), keep_area=True)

    assert [int(side) for side in sides(jnp.uint32(0))] == [658, 822]


# The reference


@pytest.mark.slow
def test_the_context_block_of_the_reference_is_always_the_top_left_13x13():
    masks = sampled(jm.ijepa_masks, (14, 14), allow_overlap=True, sampling="reference")
    assert masks.context[:, :13, :13].all()
    assert counts(masks.context) == {13 * 13}


@pytest.mark.slow
def test_the_reference_never_reaches_the_last_row_and_column_but_the_ones_before():
    options = {"sampling": "reference", "allow_overlap": True}
    masks = sampled(jm.ijepa_masks, (14, 14), keys=2_000, **options)
    for sets in (masks.context, *masks.targets.swapaxes(0, 1)):
        assert not sets[:, -1].any()
        assert not sets[:, :, -1].any()
        assert sets[:, -2].any()
        assert sets[:, :, -2].any()


def test_the_reference_leaves_what_its_largest_target_does():
    # Blocks are smaller than the grid, so the target has 4x4 of 5x5 tokens.
    options = {"num_targets": 1, "target_scale": (1, 1), "target_aspect_ratio": (1, 1)}
    options |= {"sampling": "reference"}
    assert counts(sampled(jm.ijepa_masks, (5, 5), min_keep=9, **options).context) == {9}
    with pytest.raises(ValueError, match="min_keep to 9"):
        jm.ijepa_masks(KEY, (5, 5), min_keep=10, **options)


# The law


@pytest.mark.slow
def test_corners_of_targets_and_context_are_uniform_and_independent():
    masks = sampled(
        jm.ijepa_masks,
        (4, 4),
        keys=20_000,
        num_targets=2,
        target_scale=(0.3, 0.3),
        target_aspect_ratio=(2.3, 2.3),
        context_scale=(0.6, 0.6),
        min_keep=1,
        allow_overlap=True,
    )
    first, num_places = corners(masks.targets[:, 0], (3, 1))
    second, _ = corners(masks.targets[:, 1], (3, 1))
    context, num_context_places = corners(masks.context, (3, 3))
    shape = (num_places, num_places, num_context_places)
    assert_uniform(np.ravel_multi_index((first, second, context), shape), math.prod(shape))


def size_chances(tokens, scale, aspect, shared):
    """The chance of each target size, from scales and aspects in small steps."""
    steps = 2000
    u = (np.arange(steps) + 0.5) / steps
    scales, aspects = scale[0] + (scale[1] - scale[0]) * u, aspect[0] + (aspect[1] - aspect[0]) * u
    if not shared:
        scales, aspects = scales[:, None], aspects[None, :]
    n = np.floor(tokens * scales)
    heights, widths = np.round(np.sqrt(n * aspects)), np.round(np.sqrt(n / aspects))
    frequency = np.bincount((100 * heights + widths).astype(int).ravel())
    total = frequency.sum()
    return {divmod(int(code), 100): frequency[code] / total for code in np.flatnonzero(frequency)}


@pytest.mark.slow
@pytest.mark.parametrize(("sampling", "num_sizes"), [("independent", 11), ("reference", 5)])
def test_scale_and_aspect_are_independent_in_the_paper_and_one_draw_in_the_reference(
    sampling, num_sizes
):
    masks = sampled(jm.ijepa_masks, (14, 14), keys=20_000, sampling=sampling)
    targets = masks.targets[:, 0]
    heights, widths = targets.any(2).sum(1), targets.any(1).sum(1)
    chances = size_chances(196, (0.15, 0.2), DEFAULT, shared=sampling == "reference")
    assert len(chances) == num_sizes
    frequency = dict.fromkeys(chances, 0)
    for size in zip(heights.tolist(), widths.tolist(), strict=True):
        frequency[size] += 1
    expected = 20_000 * np.array(list(chances.values()))
    assert stats.chisquare(list(frequency.values()), expected).pvalue > CHANCE


def truncated(masks):
    """Cuts the end of every mask, as collators do, until it is as short as the shortest."""
    rows = masks.reshape(len(masks), -1)
    return (rows & (np.cumsum(rows, axis=1) <= min(counts(masks)))).reshape(masks.shape)


def mirror_chance(masks):
    """The chance that a map equal to its mirror images looks as unequal as that of these masks.

    Exact for each pair of a token and its image: a mask that holds one and not the other is as
    likely to hold either. The pairs of all three mirrorings share the chance.
    """
    rows = masks.reshape(len(masks), -1)
    numbers = np.arange(rows.shape[1]).reshape(masks.shape[1:])
    lowest, num_pairs = 1.0, 0
    for image in (numbers[::-1], numbers[:, ::-1], numbers[::-1, ::-1]):
        token, other = np.sort([numbers.ravel(), image.ravel()], axis=0)
        token, other = np.unique([token, other], axis=1)
        only_token = (rows[:, token] & ~rows[:, other]).sum(0)
        only_other = (rows[:, other] & ~rows[:, token]).sum(0)
        fewer = np.minimum(only_token, only_other)
        chances = 2 * stats.binom.cdf(fewer, only_token + only_other, 0.5)
        lowest, num_pairs = min(lowest, chances.min()), num_pairs + len(chances)
    return lowest * num_pairs


@pytest.mark.slow
def test_the_map_of_the_context_equals_its_mirror_images():
    masks = sampled(jm.ijepa_masks, (14, 14), keys=20_000).context
    assert mirror_chance(masks) > CHANCE
    keys = jax.random.split(jax.random.key(36), len(masks))
    clip = jax.vmap(lambda key, mask: jm.clip_count(key, mask, maximum=min(counts(masks))))
    assert mirror_chance(np.asarray(jax.jit(clip)(keys, masks))) > CHANCE
    assert mirror_chance(truncated(masks)) < CHANCE


@pytest.mark.slow
def test_a_top_up_adds_every_free_token_equally_likely():
    masks = sampled(
        jm.ijepa_masks,
        (6, 6),
        keys=20_000,
        num_targets=1,
        target_scale=(0.7, 0.7),  # 5x5, one of four places
        target_aspect_ratio=(1, 1),
        context_scale=(0.01, 0.01),  # one token, mostly inside the target
        min_keep=1,
    )
    place, num_places = corners(masks.targets[:, 0], (5, 5))
    context, free = (m.reshape(20_000, 36) for m in (masks.context, ~masks.targets[:, 0]))
    assert counts(context) == {1}
    rank = (free & (np.cumsum(context, axis=1) == 0)).sum(1)
    assert_uniform(rank * num_places + place, 11 * num_places)


# Counts

COUNTED = [
    ((14, 14), {}),
    ((16, 16), {"num_targets": 2}),
    ((8, 64), {}),
    ((5, 40), {"num_targets": 3, "target_scale": (0.1, 0.3)}),
    ((7, 9), {"target_scale": (0.2, 0.2), "target_aspect_ratio": (0.5, 2.0)}),
    ((9, 9), {"target_aspect_ratio": (0.1, 0.3), "num_targets": 1}),
    ((3, 50), {"target_aspect_ratio": (1.0, 1.0), "num_targets": 2}),
    ((1, 300), {}),
    ((2, 3), {"num_targets": 1}),
    ((2, 2), {}),
    ((10, 6), {"allow_overlap": True}),
    ((12, 12), {"allow_overlap": True, "context_scale": (0.1, 0.5)}),
    ((27, 31), {"allow_overlap": True, "context_scale": (0.3, 0.3)}),
]


def assert_counts(grid, options):
    targets = areas(
        grid, options.get("target_scale", (0.15, 0.2)), options.get("target_aspect_ratio", DEFAULT)
    )
    if options.get("allow_overlap"):
        keep = min(areas(grid, options.get("context_scale", (0.85, 1)), (1, 1)))
    else:
        keep = max(math.prod(grid) - options.get("num_targets", 4) * max(targets), 0)
    assert jm.ijepa_counts(grid, **options) == (keep, min(targets), max(targets)), (grid, options)


@pytest.mark.parametrize(("grid", "options"), COUNTED, ids=str)
def test_counts_are_those_of_a_search(grid, options):
    assert_counts(grid, options)


@pytest.mark.slow
def test_counts_of_many_settings_are_those_of_a_search():
    for grid, num_targets, scale, aspect in random_settings(150):
        options = {"target_scale": scale, "target_aspect_ratio": aspect}
        assert_counts(grid, {"num_targets": num_targets, **options})


def test_counts_worked_by_hand():
    assert jm.ijepa_counts((14, 14)) == (28, 24, 42)
    # 40 * 0.15 = 6, and no more than 7 below 40 * 0.2.
    assert jm.ijepa_counts((40,)) == (40 - 4 * 7, 6, 7)
    assert jm.ijepa_counts((40,), allow_overlap=True, context_scale=(0.5, 1)) == (20, 6, 7)
    assert all(type(count) is int for count in jm.ijepa_counts((14, 14)))


def test_the_smallest_target_of_a_large_grid_is_that_of_enumeration():
    aspects = np.arange(4500, 9001) / 6000  # the steps that a block of this size leaves room for
    tokens = math.floor(256 * 256 * 0.6)
    sizes = np.rint(np.sqrt(tokens * aspects)) * np.rint(np.sqrt(tokens / aspects))
    found = jm.ijepa_counts((256, 256), num_targets=1, target_scale=(0.6, 0.6))
    assert (found.target_min, found.target_max) == (sizes.min(), sizes.max())
    assert found.target_min == 39_130


def test_counts_take_the_options_of_the_preset():
    options = ijepa.keywords | {"min_keep": 10_000}
    assert jm.ijepa_counts((14, 14), **options) == jm.ijepa_counts((14, 14))


@pytest.mark.parametrize(
    ("grid", "options"),
    [*COUNTED[:6], *COUNTED[-2:], ((16, 16), {"sampling": "reference"}), ((33,), {})],
    ids=str,
)
def test_min_keep_is_accepted_up_to_its_count(grid, options):
    keep = jm.ijepa_counts(grid, **options).min_keep
    with pytest.raises(ValueError, match=rf"(guarantee the context|must be at most) {keep}\b"):
        jm.ijepa_masks(KEY, grid, min_keep=keep + 1, **options)
    if keep:
        jax.eval_shape(lambda key: jm.ijepa_masks(key, grid, min_keep=keep, **options), KEY)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["independent", "reference"])
def test_masks_keep_to_the_counts(sampling):
    options = {"sampling": sampling, "num_targets": 3}
    found = jm.ijepa_counts((12, 12), **options)
    masks = sampled(jm.ijepa_masks, (12, 12), keys=2000, min_keep=found.min_keep, **options)
    targets = masks.targets.sum((2, 3))
    assert min(counts(masks.context)) >= found.min_keep
    assert targets.min() >= found.target_min
    assert targets.max() <= found.target_max
    if sampling == "independent":
        assert (targets.min(), targets.max()) == (found.target_min, found.target_max)


def test_a_context_is_topped_up_by_real_tokens_that_are_no_target():
    def draw(key, grid):
        context, targets = jm.ijepa_masks(key, grid, within=(3, 8), num_targets=1, min_keep=1)
        free = jm.inside(grid, (3, 8)) & ~targets.any(0)
        return jm.clip_count(key, context, exactly=22, among=free), free

    context, free = sampled(draw, (8, 8))
    assert not (context & ~free).any()
    assert context.sum((1, 2)).tolist() == np.minimum(free.sum((1, 2)), 22).tolist()
    assert min(counts(free)) < 22
