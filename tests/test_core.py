"""The helpers under every strategy are exact: whole numbers, rounded roots, plans, boxes."""

import decimal
import functools
import itertools
import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow

import jepa_masks_jax as jm
from jepa_masks_jax import _boxes, _draws, _sizes, _subsets, _within

INT32_MAX = 2**31 - 1
_EDGES = [0, 1, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]


def words(seed, *shape):
    return np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32)


def root(x, *, half_even):
    """`round(sqrt(x))` of a Fraction in 60 digits: a tie is a finite decimal, and so is exact."""
    rounding = decimal.ROUND_HALF_EVEN if half_even else decimal.ROUND_HALF_UP
    with decimal.localcontext(prec=60):
        return int((decimal.Decimal(x.numerator) / x.denominator).sqrt().to_integral(rounding))


_NUMBERS = [0, 1, 2, 3, 5, 7, 196, 2**16 - 1, 2**16, 2**16 + 1, 2**24, 2**30 + 1, 2**31 - 1]


def test_below_is_the_high_word_of_the_product():
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(0, 3000)])
    draw = jax.jit(jax.vmap(jax.vmap(_draws.below, (0, None)), (None, 0)))
    got = draw(draws, np.array(_NUMBERS, np.int32))
    assert got.dtype == jnp.int32
    expected = [[int(word) * n >> 32 for word in draws] for n in _NUMBERS]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("n", [1, 3, 2**24])
def test_below_a_static_number_is_the_same(n):
    edges = np.array(_EDGES, np.uint32)
    expected = [word * n >> 32 for word in _EDGES]
    np.testing.assert_array_equal(_draws.below(edges, n), expected)


def test_below_changes_exactly_at_the_thresholds():
    n = 196
    first = [-(-(i << 32) // n) for i in range(n)]  # the least word that gives i
    got = _draws.below(np.array([*first, *(word - 1 for word in first[1:])], np.uint32), n)
    np.testing.assert_array_equal(got, [*range(n), *range(n - 1)])


def test_random_words_are_the_first_of_more():
    counts = (0, 1, 2, 15, 16, 17, 39, 40)
    draw = jax.jit(lambda key: [_draws.random_words(key, count) for count in counts])
    *fewer, most = draw(jax.random.key(3))
    assert most.dtype == jnp.uint32
    for count, draws in zip(counts[:-1], fewer, strict=True):
        assert draws.shape == (count,)
        np.testing.assert_array_equal(draws, most[:count])
    assert len(set(most.tolist())) == 40


def _near_ties(divisor, sides):
    for side in sides:
        for off in (-1, 0, 1):
            yield (2 * side - 1) ** 2 * divisor + off, divisor
            yield (2 * side) ** 2 * divisor + off, divisor


def _quotients():
    yield from itertools.product(range(1500), range(1, 13))
    for divisor in (1, 2, 3, 7, 1000, 12345, 2**20 - 1, 2**24 + 1):
        largest = min(INT32_MAX // divisor, 2**30)
        last = (math.isqrt(largest) - 1) // 2
        sides = {side for side in (1, 2, 3, 4, last // 2, last - 2, last - 1, last) if side > 0}
        yield from _near_ties(divisor, sorted(sides))
    for divisor in (2, 3, 4, 5, 999, 2**20, 2**30, INT32_MAX - 1, INT32_MAX):
        yield from ((INT32_MAX - back, divisor) for back in range(8))


@pytest.mark.parametrize("half_even", [False, True])
def test_rounded_sqrt_is_exact_in_python_and_traced(half_even):
    pairs = [(four_x, d) for four_x, d in _quotients() if 0 <= four_x <= INT32_MAX]
    expected = [root(Fraction(four_x, 4 * d), half_even=half_even) for four_x, d in pairs]
    assert [_sizes.rounded_sqrt(*pair, half_even=half_even) for pair in pairs] == expected
    traced = jax.jit(functools.partial(_sizes.traced_rounded_sqrt, half_even=half_even))
    got = traced(*np.array(pairs, np.int32).T)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("four_x", "away", "even"),  # sqrt(x) is 0, 0.5, 1, 1.5, 2.5, 3.5, 10.5, 11.5
    [
        (0, 0, 0),
        (1, 1, 0),
        (4, 1, 1),
        (9, 2, 2),
        (25, 3, 2),
        (49, 4, 4),
        (441, 11, 10),
        (529, 12, 12),
    ],
)
def test_ties_worked_by_hand(four_x, away, even):
    for divisor in (1, 5):
        assert _sizes.rounded_sqrt(four_x * divisor, divisor) == away
        assert _sizes.rounded_sqrt(four_x * divisor, divisor, half_even=True) == even


_ASPECTS = [
    (0.75, 1.5),
    (1.0, 1.0),
    (5.6, 5.6),
    (8.45, 8.45),
    (1.0625, 1.0625),
    (0.8, 0.8),
    (0.8, 5.6),
    (1 / 3, 3.0),
    (0.1, 0.7),
    (0.02, 4.0),
    (2.5, 100.0),
    (0.001, 0.002),
]


def aspects(aspect, *largest):
    """The plans of the aspect ratio for blocks of up to so many tokens each."""
    columns = _sizes.aspects("some_aspect", aspect, np.array(largest))
    return [_draws.Uniform(*map(int, row)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("aspect", _ASPECTS, ids=str)
def test_aspect_ratio_stays_in_its_range_and_in_32_bits_up_to_the_limit(aspect):
    with pytest.raises(ValueError, match=r"some_aspect from .* may have 1000000000$") as caught:
        aspects(aspect, 10**9)
    limit = int(re.search(r"up to (\d+) tokens", str(caught.value))[1])
    with pytest.raises(ValueError, match=f"up to {limit} tokens, .* may have {limit + 1}$"):
        aspects(aspect, limit + 1)

    low, high = (Fraction(str(end)) for end in aspect)
    counts = [0, 1, 2, 5, 196, 1000, limit // 7, limit // 2, limit - 1, limit]
    counts = sorted({count for count in counts if count <= limit})
    together = aspects(aspect, *counts)
    for largest, planned in zip(counts, together, strict=True):
        assert aspects(aspect, largest) == [planned]
        first, steps, unit = planned
        assert low - Fraction(1, unit) < Fraction(first, unit) <= low
        assert planned.last == first + max(steps - 1, 0)
        assert Fraction(planned.last, unit) < high or steps == 1
        assert 4 * largest * planned.last <= INT32_MAX
        assert 4 * largest * unit <= INT32_MAX
        assert first >= 64 * min(1, low) - 1
        if low == high:
            assert steps == 1
            if largest <= 1000:
                assert Fraction(first, unit) == low


def test_sampled_steps_stay_in_the_range_and_a_single_value_is_itself():
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(1, 500)])
    got = np.asarray(_draws.Uniform(70, 30, 100).sample(draws))
    assert (got.min(), got.max()) == (70, 99)
    np.testing.assert_array_equal(got, [70 + (int(word) * 30 >> 32) for word in draws])
    assert set(_draws.Uniform(70, 1, 100).sample(draws).tolist()) == {70}


_RANGES = [
    (0.5, 0.5),
    (0.0, 0.5),
    (29.4, 39.2),
    (29.4, 29.4),
    (1.0, 3.0),
    (62.99999999999999, 62.99999999999999),
    (63.0, 63.0),
    (1.5, 4095.999),
    (2.0**24, 2.0**24),
    (0.5, 2.0**24 + 0.5),
]


def whole_uniforms(*ranges):
    """The plans of all ranges, made as one array."""
    columns = _draws.uniform(*np.array(ranges).T)
    return [_draws.Uniform(*map(int, row)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize(("low", "high"), _RANGES)
def test_sampled_counts_are_the_whole_parts_of_the_range(low, high):
    planned = whole_uniforms(*_RANGES)[_RANGES.index((low, high))]
    first, steps, unit = planned
    assert first + steps <= INT32_MAX
    assert unit >= 2**5
    assert Fraction(low) - Fraction(1, unit) < Fraction(first, unit) <= Fraction(low)
    assert steps == 1 or Fraction(planned.last, unit) < Fraction(high)
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(2, 200)])
    got = np.asarray(planned.sample_floor(draws))
    np.testing.assert_array_equal(got, [(first + (int(w) * steps >> 32)) // unit for w in draws])
    assert got.min() == math.floor(low)
    last = math.floor(low) if low == high else math.ceil(high) - 1
    assert got.max() == last
    assert planned.floors == (math.floor(low), last)


def jepa_blocks(counts, aspect):
    """The plan of blocks whose counts are uniform in a range, for one size."""
    (planned,) = whole_uniforms(counts)
    return _sizes.JepaBlocks(planned, *aspects(aspect, planned.floors[1]))


def _sampled_sides(blocks, counts):
    """All (height, width) that a plan samples with some counts, before they are cut.

    With the aspect ratio the height only grows and the width only shrinks, so that both are the
    same all the way between two steps if both are the same at their ends.
    """
    first, last, unit = blocks.aspects.first, blocks.aspects.last, blocks.aspects.unit
    found = set()
    for count in counts:

        @functools.cache
        def sides(aspect, count=count):
            return (
                root(Fraction(count * aspect, unit), half_even=True),
                root(Fraction(count * unit, aspect), half_even=True),
            )

        spans = [(first, last)]
        while spans:
            low, high = spans.pop()
            found |= {(count, *sides(low)), (count, *sides(high))}
            if sides(low) != sides(high) and high - low > 1:
                spans += [(low, (low + high) // 2), ((low + high) // 2, high)]
    return found


def _cut(count, sides, room, keep_area):
    """What a room leaves of a block: each side cut to it, on a wide one the area kept."""
    cut = [min(max(side, 1), length) for side, length in zip(sides, room, strict=True)]
    if keep_area and room[0] != room[1]:
        for axis, other in ((0, 1), (1, 0)):
            if sides[axis] > room[axis]:
                extended = math.floor(Fraction(count, room[axis]) + Fraction(1, 2))
                cut[other] = min(max(extended, 1), room[other])
    return tuple(cut)


_BLOCKS = [
    ((29.4, 39.2), (0.75, 1.5)),
    ((0.0, 6.5), (0.5, 2.0)),
    ((5.0, 5.0), (0.8, 0.8)),
    ((7.0, 7.0), (1.75, 1.75)),
    ((5.0, 40.0), (0.8, 0.8)),
    ((2.0, 30.0), (0.1, 9.0)),
    ((3.0, 5.0), (0.01, 0.02)),
    ((1.0, 30.5), (1.25, 1.25)),
    ((20.0, 21.0), (0.8, 1.25)),
    ((60.0, 64.0), (2.0, 3.0)),
    ((1000.0, 1004.0), (0.9, 1.1)),
    ((150_000.0, 150_002.0), (1.0, 1.0002)),
]


@pytest.mark.parametrize("keep_area", [False, True])
@pytest.mark.parametrize(("counts", "aspect"), _BLOCKS, ids=str)
def test_the_sides_of_the_extreme_counts_are_all_listed_and_bound_those_of_the_others(
    counts, aspect, keep_area
):
    blocks = jepa_blocks(counts, aspect)
    fewest, most = blocks.counts.floors
    sampled = _sampled_sides(blocks, range(fewest, most + 1))
    for room in [(500, 500), (9, 9), (4, 250), (200, 5), (7, 8)]:
        if math.prod(room) < most:
            continue
        cut = {(count, _cut(count, sides, room, keep_area)) for count, *sides in sampled}
        smallest, largest = (
            _sizes.all_sides(count, blocks.aspects, room, keep_area=keep_area)
            for count in (fewest, most)
        )
        assert set(smallest) == {sides for count, sides in cut if count == fewest}
        assert set(largest) == {sides for count, sides in cut if count == most}
        assert min(map(math.prod, smallest)) == min(math.prod(sides) for _, sides in cut)
        for _, sides in cut:
            assert any(np.all(np.array(sides) <= bound) for bound in largest)


@pytest.mark.parametrize(
    ("grid", "scale", "aspect"),
    [
        ((1, 4096), (0.1, 1.0), (0.75, 1.5)),
        slow((2000, 2000), (0.15, 0.2), (0.75, 1.5)),
        ((2000, 2000), (0.9, 1.0), (1.0, 1.0)),
        slow((24, 24), (0.001, 1.0), (0.02, 4.0)),
    ],
)
@pytest.mark.parametrize("keep_area", [False, True])
def test_sampled_sides_are_the_roots_of_what_is_sampled_also_on_large_grids(
    grid, scale, aspect, keep_area
):
    tokens = math.prod(grid)
    blocks = jepa_blocks([tokens * end for end in scale], aspect)
    draws = words(5, 2, 1500)
    draws[:, : len(_EDGES)] = _EDGES
    sample = functools.partial(
        _sizes.sample_jepa_sides, blocks=blocks, room=grid, keep_area=keep_area
    )
    got = np.transpose(jax.jit(sample)(*draws))
    (first, steps, unit), (first_count, count_steps, count_unit) = blocks.aspects, blocks.counts
    for sides, (count_word, aspect_word) in zip(got.tolist(), draws.T.tolist(), strict=True):
        count = (first_count + (count_word * count_steps >> 32)) // count_unit
        ratio = Fraction(first + (aspect_word * steps >> 32), unit)
        low, high = map(Fraction, aspect)
        assert abs(ratio - low - (high - low) * aspect_word / 2**32) < Fraction(3, unit)
        exact = root(count * ratio, half_even=True), root(count / ratio, half_even=True)
        kept = _cut(count, exact, grid, keep_area)
        assert tuple(min(max(s, 1), n) for s, n in zip(sides, grid, strict=True)) == kept


def test_sides_worked_by_hand():
    sample = jax.jit(functools.partial(_sizes.sample_jepa_sides, keep_area=True))
    for grid, scale, aspect, sides in [
        # n = floor(62.999...) = 62: sqrt(55.8) = 7.47, sqrt(68.9) = 8.3
        ((9, 10), 0.7, 0.9, (7, 8)),
        ((5, 5), 0.2, 0.8, (2, 2)),  # n = 5: sqrt(5 / 0.8) = 2.5, half to even
        ((5, 7), 0.2, 1.75, (4, 2)),  # n = 7: sqrt(7 * 1.75) = 3.5, half to even
        ((20, 5), 0.35, 5.6, (14, 2)),  # n = 35: sqrt(35 * 5.6) = 14, sqrt(35 / 5.6) = 2.5
        ((12, 12), 0.473, 1.0625, (8, 8)),  # n = 68: sqrt(68 * 1.0625) = 8.5, sqrt(64) = 8
    ]:
        blocks = jepa_blocks([math.prod(grid) * scale] * 2, (aspect, aspect))
        count, _ = blocks.counts.floors
        assert set(_sizes.all_sides(count, blocks.aspects, grid, keep_area=True)) == {sides}
        for word in words(6, 3, 2):
            assert sample(*word, blocks, grid) == sides


@pytest.mark.slow
def test_ijepa_block_of_two_thousand_tokens_a_side():
    options = {"num_targets": 1, "target_scale": (0.25, 0.25), "target_aspect_ratio": (0.5, 0.5)}
    draw = jax.jit(lambda key: jm.ijepa_masks(key, (2000, 2000), **options).targets)
    targets = draw(jax.random.key(0))
    rows, columns = np.asarray(targets[0].any(1)).sum(), np.asarray(targets[0].any(0)).sum()
    # sqrt(1_000_000 * 0.5) = 707.1, sqrt(1_000_000 / 0.5) = 1414.2
    assert (rows, columns, int(targets.sum())) == (707, 1414, 707 * 1414)


def test_boxes_reach_the_first_and_the_last_position_and_none_beyond():
    sides, room, grid = ([1, 2, 3, 5, 0, 9], [7, 7, 1, 4, 99, 1]), (5, 7), (6, 8)
    sides = [np.array(side, np.int32) for side in sides]
    place = jax.jit(lambda *words: _boxes.place_each(words, sides, room, grid))
    for word in _EDGES:
        boxes = np.asarray(place(*[np.full(6, word, np.uint32)] * 2))
        for i, box in enumerate(boxes):
            expected = np.zeros(grid, bool)
            cut = [min(max(int(side[i]), 1), n) for side, n in zip(sides, room, strict=True)]
            start = [word * (n - side + 1) >> 32 for side, n in zip(cut, room, strict=True)]
            expected[tuple(slice(at, at + side) for at, side in zip(start, cut, strict=True))] = 1
            np.testing.assert_array_equal(box, expected)


def _covers(num_boxes, size, grid):
    """Whether any placement of that many boxes covers the grid: all of them are tried."""
    tokens = np.arange(math.prod(grid)).reshape(grid)
    corners = itertools.product(*(range(n - s + 1) for n, s in zip(grid, size, strict=True)))
    boxes = [
        sum(
            1 << int(token)
            for token in tokens[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))]
            .reshape(-1)
            .tolist()
        )
        for corner in corners
    ]
    full = (1 << tokens.size) - 1
    return any(
        functools.reduce(int.__or__, chosen) == full
        for chosen in itertools.combinations_with_replacement(boxes, num_boxes)
    )


@pytest.mark.parametrize(
    "grid", [*itertools.product(range(1, 5), repeat=2), (2, 2, 2), (1, 3, 2), (5,), (3, 2, 1, 1)]
)
def test_can_cover_says_whether_any_placement_covers(grid):
    for size in itertools.product(*(range(1, side + 1) for side in grid)):
        for num_boxes in range(1, 5):
            assert _boxes.can_cover(num_boxes, size, grid) == _covers(num_boxes, size, grid)


def test_can_cover_takes_sizes_as_they_are_before_clamping():
    assert _boxes.can_cover(2, (9, 2), (2, 4))
    assert not _boxes.can_cover(1, (9, 2), (2, 4))
    assert _boxes.can_cover(8, (0, 0), (2, 4))
    assert not _boxes.can_cover(7, (0, 0), (2, 4))


_NUM_BOXES = (1, 31, 32, 33, 64)


@pytest.mark.parametrize("grid", [(210,), (13, 17), (3, 7, 11), (2, 3, 5, 7), (1, 70), (66, 2)])
def test_boxes_are_those_of_a_loop_and_cut_off_at_the_edges(grid):
    rng = np.random.default_rng(7)
    sides = [rng.integers(1, min(length, 3) + 1, (12, 5), np.int32) for length in grid]
    starts = [rng.integers(-1, length, (12, 5), np.int32) for length in grid]
    got = jax.jit(jax.vmap(functools.partial(_boxes.each_box, grid=grid)))(starts, sides)
    expected = np.zeros((12, 5, *grid), bool)
    for i, j in np.ndindex(12, 5):
        reached = (
            slice(max(at[i, j], 0), at[i, j] + side[i, j])
            for at, side in zip(starts, sides, strict=True)
        )
        expected[i, j][tuple(reached)] = True
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("within", [None, (1, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("grid", [(2, 3), (3, 5)])
def test_leave_one_clears_each_real_token_for_its_share_of_the_words(grid, within):
    sides = within or grid
    tokens = math.prod(sides)
    first = [-(-(i << 32) // tokens) for i in range(tokens + 1)]
    draws = np.array([*first[:-1], *(word - 1 for word in first[1:])], np.uint32)
    true = np.zeros(grid, bool)
    true[: sides[0], : sides[1]] = True

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def leave(mask, word):
        array = None if within is None else jnp.array(within)
        return _boxes.leave_one(mask, _within.real_part(grid, array), word)

    left = np.asarray(leave(true, draws)).reshape(2, tokens, *grid)
    for masks in left:
        np.testing.assert_array_equal(masks[:, true], ~np.eye(tokens, dtype=bool))
        assert not masks[:, ~true].any()
    mask = true & (np.indices(grid).sum(0) % 2 == 0)
    np.testing.assert_array_equal(leave(mask, draws), [mask] * (2 * tokens))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (9, 1), (1, 31), (5, 31), (5, 32), (1, 33), (5, 33), (3, 70)]
)
def test_count_before_is_the_cumulative_sum(height, width):
    rng = np.random.default_rng(9)
    chance = np.linspace(0, 1, 21)[:, None, None]
    masks = rng.random((21, height, width)) < chance
    flat = masks.reshape(21, -1)
    expected = (np.cumsum(flat, axis=1) - flat).reshape(masks.shape)
    got = jax.jit(jax.vmap(_subsets._count_before))(masks)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, expected)
