"""Blocks of I-JEPA and V-JEPA keep their area on grids that are not square, and what follows.

The sides of blocks are worked out here again, from the words of a key in exact fractions. What a
setting can reach is searched over all counts and, between the aspect ratios at which a side
changes, one of each interval.
"""

import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from transcription import keys_and_words, real

import jepa_masks_jax as jm
from jepa_masks_jax.presets import ijepa, vjepa_long_range

SIZES = [(8, 64), (64, 8), (16, 32), (8, 32), (27, 31), (31, 9), (1, 64), (24, 25), (24, 24)]
LARGEST = (64, 64)


def half_even_root(square):
    """`round(sqrt(square))` of a fraction, half to even."""
    low = math.isqrt(math.floor(square))
    above_half = square - (low + Fraction(1, 2)) ** 2
    return low + (above_half > 0 or (above_half == 0 and low % 2))


def sides_in(frame, n, aspect):
    """The sides of a block of n tokens in a frame."""
    sides = half_even_root(n * aspect), half_even_root(n / aspect)
    cut = [min(side, most) for side, most in zip(sides, frame, strict=True)]
    if frame[0] != frame[1]:
        for axis in (0, 1):
            if sides[axis] > frame[axis]:
                cut[1 - axis] = math.floor(Fraction(n, frame[axis]) + Fraction(1, 2))
    return tuple(max(side, 1) for side in cut)


def sides_of(words, frame, scale, aspect):
    n = math.floor(math.prod(frame) * real(words[0], *scale))
    return sides_in(frame, n, Fraction(real(words[1], *aspect)))


def sides_of_masks(masks):
    """The height and the width of masks that are one block each: int[masks, 2]."""
    sides = np.stack([masks.any(2).sum(1), masks.any(1).sum(1)], axis=1)
    np.testing.assert_array_equal(masks.sum((1, 2)), sides.prod(1))
    return sides


@pytest.fixture(scope="module")
def blocks():
    """One target, the context, and one long block of V-JEPA, in one program for all sizes."""
    keys, _ = keys_and_words(30)

    @jax.jit
    @jax.vmap
    def draw(key, size):
        context, targets = ijepa(
            key, LARGEST, num_targets=1, allow_overlap=True, min_keep=1, within=size
        )
        return targets[0], context, vjepa_long_range(key, LARGEST, num_blocks=1, within=size)

    sizes = {size: np.tile(size, (len(keys), 1)) for size in SIZES}
    return {size: list(map(np.asarray, draw(keys, tiled))) for size, tiled in sizes.items()}


DEFAULT = (0.75, 1.5)
SETTINGS = [  # of a target, the context and a long block: its words, its scale, its aspect ratio
    ((0, 1), (0.15, 0.2), DEFAULT),
    ((2, 2), (0.85, 1.0), (1, 1)),
    ((1, 2), (0.7, 0.7), DEFAULT),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sides_are_those_of_the_words(blocks, size):
    _, words = keys_and_words(30)
    for masks, (at, scale, aspect) in zip(blocks[size], SETTINGS, strict=True):
        for i, sides in enumerate(sides_of_masks(masks).tolist()):
            assert tuple(sides) == sides_of(words[i, list(at)], size, scale, aspect), f"key {i}"


@pytest.mark.parametrize(
    ("size", "target", "context", "long"),
    [
        ((16, 32), 0.174, 0.926, 0.688),
        ((8, 32), 0.173, 0.925, 0.688),
        ((8, 64), 0.175, 0.927, 0.703),
        ((27, 31), 0.174, 0.923, 0.701),
    ],
    ids=str,
)
def test_mean_shares_of_the_grid(blocks, size, target, context, long):
    shares = [mask.sum((1, 2)).mean() / math.prod(size) for mask in blocks[size]]
    np.testing.assert_allclose(shares, [target, context, long], atol=0.01)


@pytest.mark.parametrize(
    "grid", [(1, 300), pytest.param((4, 128), marks=pytest.mark.slow)], ids=str
)
def test_thin_grids_of_the_static_call(grid):
    """No grid is too thin, nor is a frame of a video."""
    keys, words = keys_and_words(30)

    @jax.jit
    @jax.vmap
    def draw(key):
        context = ijepa(key, grid, allow_overlap=True, num_targets=1).context
        return context, vjepa_long_range(key, (2, *grid), num_blocks=1)

    context, clip = map(np.asarray, draw(keys))
    np.testing.assert_array_equal(clip[:, 0], clip[:, 1])
    for masks, (at, scale, aspect) in zip((context, clip[:, 0]), SETTINGS[1:], strict=True):
        for i, sides in enumerate(sides_of_masks(masks).tolist()):
            assert tuple(sides) == sides_of(words[i, list(at)], grid, scale, aspect), f"key {i}"


def test_a_square_grid_cuts_without_extending_worked_by_hand(blocks):
    # V-JEPA's 0.7 on 24x24, n = 403: from an aspect ratio of 24.5**2 / 403 on the height is cut.
    assert sides_in((24, 24), 403, Fraction("1.49")) == (24, 16)
    assert sides_in((24, 25), 403, Fraction("1.49")) == (24, 17)
    sides = sides_of_masks(blocks[24, 24][2])
    assert (24, 16) in {tuple(each) for each in sides.tolist()}


def breakpoints(n, low, high, most):
    """The aspect ratios between `low` and `high` at which a side of n tokens changes."""
    halves = [Fraction(2 * m - 1, 2) for m in range(1, most + 2)]
    found = {half**2 / n for half in halves} | {n / half**2 for half in halves}
    return sorted(point for point in found if low < point < high)


def all_sides(frame, scale, aspect):
    """Every pair of sides that a block can have."""
    tokens = math.prod(frame)
    low, high = (float(end) * tokens for end in scale)
    last = math.floor(high) - (high.is_integer() and low < high)
    first, stop = (Fraction(str(end)) for end in aspect)
    reached = set()
    for n in range(math.floor(low), last + 1):
        if n == 0 or first == stop:
            reached.add(sides_in(frame, n, first))
            continue
        most = 2 + math.isqrt(math.ceil(n * max(stop, 1 / first)))
        edges = [first, *breakpoints(n, first, stop, most), stop]
        reached |= {sides_in(frame, n, (a + b) / 2) for a, b in itertools.pairwise(edges)}
    return reached


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


def areas(frame, scale, aspect):
    return [math.prod(sides) for sides in all_sides(frame, scale, aspect)]


@pytest.mark.parametrize(("grid", "options"), COUNTED, ids=str)
def test_counts_are_those_of_a_search(grid, options):
    targets = areas(
        grid, options.get("target_scale", (0.15, 0.2)), options.get("target_aspect_ratio", DEFAULT)
    )
    if options.get("allow_overlap"):
        keep = min(areas(grid, options.get("context_scale", (0.85, 1)), (1, 1)))
    else:
        keep = max(math.prod(grid) - options.get("num_targets", 4) * max(targets), 0)
    assert jm.ijepa_counts(grid, **options) == (keep, min(targets), max(targets))


def test_counts_worked_by_hand():
    assert jm.ijepa_counts((14, 14)) == (28, 24, 42)
    # 40 * 0.15 = 6, and no more than 7 below 40 * 0.2.
    assert jm.ijepa_counts((40,)) == (40 - 4 * 7, 6, 7)
    assert jm.ijepa_counts((40,), allow_overlap=True, context_scale=(0.5, 1)) == (20, 6, 7)
    assert all(type(count) is int for count in jm.ijepa_counts((14, 14)))


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
        jm.ijepa_masks(jax.random.key(0), grid, min_keep=keep + 1, **options)
    if keep:
        jax.eval_shape(
            lambda key: jm.ijepa_masks(key, grid, min_keep=keep, **options), jax.random.key(0)
        )


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["independent", "reference"])
def test_masks_keep_to_the_counts(sampling):
    options = {"sampling": sampling, "num_targets": 3}
    counts = jm.ijepa_counts((12, 12), **options)

    @jax.jit
    @jax.vmap
    def draw(key):
        context, targets = jm.ijepa_masks(key, (12, 12), min_keep=counts.min_keep, **options)
        return context.sum(), targets.sum((1, 2))

    context, targets = draw(jax.random.split(jax.random.key(0), 2000))
    assert context.min() >= counts.min_keep
    assert targets.min() >= counts.target_min
    assert targets.max() <= counts.target_max
    if sampling == "independent":
        assert (targets.min(), targets.max()) == (counts.target_min, counts.target_max)


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


def assert_placed_again(grid, num_blocks, scale, aspect, covered):
    words = words_drawn(
        lambda key: jm.vjepa_mask(
            key, grid, num_blocks=num_blocks, spatial_scale=scale, aspect_ratio=aspect
        )
    )
    expected = 3 + 2 * num_blocks * (4 if covered else 1) + 1
    assert words == max(expected, 16), (grid, num_blocks, scale, aspect)


COVERED = [
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


@pytest.mark.parametrize(("grid", "num_blocks", "scale", "aspect"), COVERED, ids=str)
def test_vjepa_places_blocks_again_exactly_if_they_can_cover_a_frame(
    grid, num_blocks, scale, aspect
):
    covered = can_cover(grid[-2:], num_blocks, scale, aspect)
    assert_placed_again(grid, num_blocks, scale, aspect, covered)


def test_two_blocks_of_a_wide_frame_never_hide_all_of_it():
    """Two blocks of 0.7 of 4x16 are 4 by 11: one in five pairs covers it, and is placed again."""
    keys, _ = keys_and_words(30)
    masks = jax.jit(jax.vmap(lambda key: vjepa_long_range(key, (4, 16))))(keys)
    count = np.asarray(masks).sum((1, 2))
    assert np.all((count >= 44) & (count < 64))


def random_settings(count):
    rng = np.random.default_rng(3)
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(1, 15, 2))
        scale = sorted(rng.uniform(0.02, 1, 2).round(2).tolist())
        aspect = sorted(rng.uniform(0.2, 4, 2).round(2).tolist())
        if height * width > 1:
            yield (height, width), int(rng.integers(2, 7)), tuple(scale), tuple(aspect)


@pytest.mark.slow
def test_counts_and_covers_of_many_settings_are_those_of_a_search():
    covered = []
    for frame, num_blocks, scale, aspect in random_settings(150):
        found = areas(frame, scale, aspect)
        counts = jm.ijepa_counts(
            frame, num_targets=num_blocks, target_scale=scale, target_aspect_ratio=aspect
        )
        keep = max(math.prod(frame) - num_blocks * max(found), 0)
        assert counts == (keep, min(found), max(found)), (frame, scale, aspect)
        covered.append(can_cover(frame, num_blocks, scale, aspect))
        assert_placed_again(frame, num_blocks, scale, aspect, covered[-1])
    assert set(covered) == {True, False}
