"""Places, sizes and subsets have the chances that the definitions give them.

The keys are fixed: over random keys a comparison would fail with `CHANCE`.
"""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

import jepa_masks_jax as jm

pytestmark = pytest.mark.slow

CHANCE = 1e-6


def draw(function, count, seed, *args, **options):
    """Draws a batch of masks in one program."""
    keys = jax.random.split(jax.random.key(seed), count)
    draw = jax.vmap(lambda key: function(key, *args, **options))
    return jax.tree.map(np.asarray, jax.jit(draw)(keys))


def assert_uniform(values, num_values):
    """Chi-square of whole numbers against equal chances for all in [0, num_values)."""
    counts = np.bincount(values, minlength=num_values)
    assert len(counts) == num_values
    assert stats.chisquare(counts).pvalue > CHANCE


def corners(masks, size):
    """Numbers the corners of masks that are one block of a size, among all positions that fit."""
    batch, *grid = masks.shape
    assert (masks.reshape(batch, -1).sum(1) == math.prod(size)).all()
    first = np.unravel_index(masks.reshape(batch, -1).argmax(1), grid)
    places = [side - part + 1 for side, part in zip(grid, size, strict=True)]
    return np.ravel_multi_index(first, places), math.prod(places)


_FIXED = {"target_scale": (0.2, 0.2), "target_aspect_ratio": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("function", "grid", "options", "size"),
    [
        (jm.block_mask, (9, 7), {"num_targets": 1} | _FIXED, (4, 3)),
        (
            jm.spatiotemporal_mask,
            (5, 6, 7),
            {"num_targets": 1, "temporal_extent": (2, 2), "spatial_scale": (0.2, 0.2)},
            (2, 3, 3),
        ),
        (jm.multi_block_mask, (9, 7), {"mask_ratio": 0.25, "num_blocks": 1}, (4, 4)),
        (
            jm.vjepa_mask,
            (5, 6, 7),
            {
                "num_blocks": 1,
                "spatial_scale": (0.4, 0.4),
                "temporal_scale": (0.5, 0.5),
                "aspect_ratio": (1.0, 1.0),
            },
            (2, 4, 4),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_corner_is_uniform_over_all_positions_that_fit(function, grid, options, size):
    masks = draw(function, 20_000, 30, grid, **options)
    assert_uniform(*corners(masks, size))
    for axis in range(len(grid)):
        assert masks.take(-1, axis + 1).any()


def test_ijepa_corners_of_targets_and_context_are_uniform_and_independent():
    masks = draw(
        jm.ijepa_masks,
        20_000,
        31,
        (4, 4),
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
    ("grid", "num_targets", "scale", "aspect"),
    [
        ((14, 14), 4, (0.15, 0.2), (0.75, 1.5)),
        ((3, 40), 2, (0.5, 1.0), (0.2, 0.9)),
        ((2, 3), 4, (0.9, 1.0), (0.4, 2.5)),
    ],
)
def test_block_mask_counts_and_coverage_are_those_of_the_seed(grid, num_targets, scale, aspect):
    options = {"num_targets": num_targets, "target_scale": scale, "target_aspect_ratio": aspect}
    draws = 10_000
    ours = draw(jm.block_mask, draws, 32, grid, **options)
    rng = np.random.default_rng(32)
    seeds = np.array([seed_block_mask(rng, grid, **options) for _ in range(draws)])

    histograms = np.array(
        [np.bincount(masks.sum(axis=(1, 2)), minlength=math.prod(grid)) for masks in (ours, seeds)]
    )
    rare = histograms.sum(0) < 50
    table = np.column_stack([histograms[:, ~rare], histograms[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    assert stats.chi2_contingency(table).pvalue > CHANCE / 2

    difference = ours.mean(0) - seeds.mean(0)
    deviation = np.sqrt((ours.var(0) + seeds.var(0)) / draws)
    worst = stats.norm.isf(CHANCE / 4 / math.prod(grid))
    assert (np.abs(difference) < worst * deviation).all()


def ijepa_size_chances(tokens, scale, aspect, shared):
    """The chance of each target size, from scales and aspects in small steps."""
    steps = 2000
    u = (np.arange(steps) + 0.5) / steps
    scales, aspects = scale[0] + (scale[1] - scale[0]) * u, aspect[0] + (aspect[1] - aspect[0]) * u
    if not shared:
        scales, aspects = scales[:, None], aspects[None, :]
    n = np.floor(tokens * scales)
    heights, widths = np.round(np.sqrt(n * aspects)), np.round(np.sqrt(n / aspects))
    counts = np.bincount((100 * heights + widths).astype(int).ravel())
    return {divmod(int(code), 100): counts[code] / counts.sum() for code in np.flatnonzero(counts)}


@pytest.mark.parametrize(("sampling", "num_sizes"), [("independent", 11), ("reference", 5)])
def test_ijepa_scale_and_aspect_are_independent_in_the_paper_and_one_draw_in_the_reference(
    sampling, num_sizes
):
    targets = draw(jm.ijepa_masks, 20_000, 33, (14, 14), sampling=sampling).targets[:, 0]
    heights, widths = targets.any(2).sum(1), targets.any(1).sum(1)
    chances = ijepa_size_chances(196, (0.15, 0.2), (0.75, 1.5), shared=sampling == "reference")
    assert len(chances) == num_sizes
    counts = dict.fromkeys(chances, 0)
    for size in zip(heights.tolist(), widths.tolist(), strict=True):
        counts[size] += 1
    expected = 20_000 * np.array(list(chances.values()))
    assert stats.chisquare(list(counts.values()), expected).pvalue > CHANCE


def test_ijepa_reference_never_reaches_the_last_row_and_column_but_the_ones_before():
    masks = draw(jm.ijepa_masks, 2_000, 34, (14, 14), sampling="reference", allow_overlap=True)
    for drawn in (masks.context, *masks.targets.swapaxes(0, 1)):
        assert not drawn[:, -1].any()
        assert not drawn[:, :, -1].any()
        assert drawn[:, -2].any()
        assert drawn[:, :, -2].any()


def truncated(masks):
    """Cuts the end of every mask, as collators do, until it is as short as the shortest."""
    rows = masks.reshape(len(masks), -1)
    shortest = rows.sum(1).min()
    return (rows & (np.cumsum(rows, axis=1) <= shortest)).reshape(masks.shape)


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


def test_ijepa_context_map_equals_its_mirror_images():
    masks = draw(jm.ijepa_masks, 20_000, 35, (14, 14)).context
    assert mirror_chance(masks) > CHANCE
    shortest = int(masks.reshape(len(masks), -1).sum(1).min())
    keys = jax.random.split(jax.random.key(36), len(masks))
    clip = jax.jit(jax.vmap(functools.partial(jm.clip_count, maximum=shortest)))
    assert mirror_chance(np.asarray(clip(keys, masks))) > CHANCE
    assert mirror_chance(truncated(masks)) < CHANCE


def subset_numbers(masks, among):
    """The number of each mask's subset among all subsets of that size of the tokens `among`."""
    assert not masks[:, ~among].any()
    codes = masks[:, among] @ (1 << np.arange(among.sum()))
    (size,) = set(masks.sum(axis=1).tolist())
    subsets = itertools.combinations(range(among.sum()), size)
    number = {sum(1 << i for i in subset): n for n, subset in enumerate(subsets)}
    return np.array([number[code] for code in codes.tolist()]), len(number)


def test_clip_count_leaves_every_subset_equally_likely_when_it_removes():
    mask = np.arange(40).reshape(2, 20) % 5 == 2
    mask[1, 18] = True  # 9 tokens in two words
    clipped = draw(jm.clip_count, 25_200, 37, mask, maximum=4).reshape(-1, 40)
    assert_uniform(*subset_numbers(clipped, mask.reshape(-1)))


def test_clip_count_adds_every_subset_equally_likely_from_among():
    mask = np.arange(40).reshape(2, 20) % 7 == 0
    among = np.arange(40).reshape(2, 20) % 4 == 1
    among[0, :2] = True  # 9 tokens that the mask lacks, and some that it holds
    clipped = draw(jm.clip_count, 25_200, 38, mask, minimum=int(mask.sum()) + 4, among=among)
    assert clipped[:, mask].all()
    assert_uniform(*subset_numbers((clipped & ~mask).reshape(-1, 40), (among & ~mask).reshape(-1)))


def test_clip_count_adds_every_subset_equally_likely_from_anywhere():
    clipped = draw(jm.clip_count, 25_200, 39, np.zeros((3, 3), bool), minimum=4).reshape(-1, 9)
    assert_uniform(*subset_numbers(clipped, np.ones(9, bool)))


def assert_same_marginals(masks):
    """Chi-square of how often each token is in one of many subsets of one size."""
    rows = masks.reshape(len(masks), -1)
    tokens, chance = rows.shape[1], rows.mean()
    variance = len(rows) * chance * (1 - chance) * tokens / (tokens - 1)
    statistic = np.sum((rows.sum(0) - len(rows) * chance) ** 2) / variance
    assert CHANCE / 2 < stats.chi2.sf(statistic, tokens - 1) < 1 - CHANCE / 2


def test_clip_count_has_the_same_chance_for_every_token_of_a_large_grid():
    grid = (16, 24, 24)
    kept = draw(jm.clip_count, 500, 40, np.ones(grid, bool), maximum=3000)
    assert (kept.reshape(500, -1).sum(1) == 3000).all()
    assert_same_marginals(kept)


def test_random_mask_draws_every_subset_equally_likely():
    masks = draw(jm.random_mask, 25_200, 41, (3, 3), mask_ratio=0.4).reshape(-1, 9)
    assert_uniform(*subset_numbers(masks, np.ones(9, bool)))


def test_random_tube_mask_draws_every_subset_equally_likely_and_the_same_in_all_frames():
    masks = draw(jm.random_tube_mask, 14_000, 42, (3, 2, 4), mask_ratio=0.5).reshape(-1, 3, 8)
    assert (masks == masks[:, :1]).all()
    assert_uniform(*subset_numbers(masks[:, 0], np.ones(8, bool)))


def test_object_mask_draws_every_count_and_every_subset_of_it_equally_likely():
    masks = draw(jm.object_mask, 20_000, 43, 5, num_masked=(1, 4))
    sizes = masks.sum(axis=1)
    assert_uniform(sizes - 1, 4)
    for size in range(1, 5):
        assert_uniform(*subset_numbers(masks[sizes == size], np.ones(5, bool)))


_EVERYTHING = {"spatial_scale": (1, 1)}


@pytest.mark.parametrize(
    ("function", "grid", "options"),
    [
        (
            jm.block_mask,
            (4, 4),
            {"num_targets": 1, "target_scale": (1, 1), "target_aspect_ratio": (1, 1)},
        ),
        (jm.spatiotemporal_mask, (3, 4, 4), _EVERYTHING | {"temporal_extent": (9, 9)}),
        (jm.multi_block_mask, (2, 2), {"mask_ratio": 0.99, "num_blocks": 1}),
        (jm.vjepa_mask, (3, 4, 4), _EVERYTHING | {"aspect_ratio": (1, 1)}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_token_left_by_a_full_cover_is_uniform(function, grid, options):
    context = ~draw(function, 10_000, 44, grid, **options).reshape(10_000, -1)
    assert (context.sum(1) == 1).all()
    assert_uniform(context.argmax(1), math.prod(grid))


def test_the_token_left_by_a_full_cover_is_uniform_over_the_frames_that_may_be_context():
    masks = draw(
        jm.vjepa_mask,
        10_000,
        45,
        (3, 4, 4),
        aspect_ratio=(1, 1),
        max_temporal_keep=0.7,
        **_EVERYTHING,
    )
    context = ~masks.reshape(10_000, -1)
    assert (context.sum(1) == 1).all()
    assert_uniform(context.argmax(1), 2 * 4 * 4)


def test_ijepa_top_up_adds_every_free_token_equally_likely():
    masks = draw(
        jm.ijepa_masks,
        20_000,
        46,
        (6, 6),
        num_targets=1,
        target_scale=(0.7, 0.7),  # 5x5, one of four places
        target_aspect_ratio=(1, 1),
        context_scale=(0.01, 0.01),  # one token, mostly inside the target
        min_keep=1,
    )
    place, num_places = corners(masks.targets[:, 0], (5, 5))
    context, free = (m.reshape(20_000, 36) for m in (masks.context, ~masks.targets[:, 0]))
    assert (context.sum(1) == 1).all()
    rank = (free & (np.cumsum(context, axis=1) == 0)).sum(1)
    assert_uniform(rank * num_places + place, 11 * num_places)
