"""The helpers under every strategy are exact: whole draws, rounded roots, plans, boxes, counts."""

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

import jepa_masks_jax as jm
from jepa_masks_jax import _boxes, _draws, _sizes
from jepa_masks_jax._strategies import ijepa

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


def test_whole_below_is_the_high_word_of_the_product():
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(0, 3000)])
    draw = jax.jit(jax.vmap(jax.vmap(_draws.whole_below, (0, None)), (None, 0)))
    got = draw(draws, np.array(_NUMBERS, np.int32))
    assert got.dtype == jnp.int32
    expected = [[int(word) * n >> 32 for word in draws] for n in _NUMBERS]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("n", [1, 3, 2**24])
def test_whole_below_a_static_number_is_the_same(n):
    draws = np.array(_EDGES, np.uint32)
    expected = [word * n >> 32 for word in _EDGES]
    np.testing.assert_array_equal(_draws.whole_below(draws, n), expected)


def test_whole_below_changes_exactly_at_the_thresholds():
    n = 196
    first = [-(-(i << 32) // n) for i in range(n)]  # the least word that gives i
    got = _draws.whole_below(np.array([*first, *(word - 1 for word in first[1:])], np.uint32), n)
    np.testing.assert_array_equal(got, [*range(n), *range(n - 1)])


def test_random_draws_are_the_first_of_more():
    counts = (0, 1, 2, 15, 16, 17, 39, 40)
    draw = jax.jit(lambda key: [_draws.random_draws(key, count) for count in counts])
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


@pytest.mark.parametrize("aspect", _ASPECTS, ids=str)
def test_aspect_ratio_stays_in_its_range_and_in_32_bits_up_to_the_limit(aspect):
    with pytest.raises(ValueError, match=r"some_aspect from .* here a block may have 1000000000"):
        _sizes.aspect_range("some_aspect", aspect, 10**9)
    try:
        _sizes.aspect_range("some_aspect", aspect, 10**9)
    except ValueError as error:
        limit = int(re.search(r"up to (\d+) tokens", str(error))[1])
    with pytest.raises(ValueError, match=f"up to {limit} tokens, .* may have {limit + 1}$"):
        _sizes.aspect_range("some_aspect", aspect, limit + 1)

    low, high = (Fraction(str(end)) for end in aspect)
    for most in {0, 1, 2, 5, 196, 1000, limit // 7, limit // 2, limit - 1, limit}:
        if most > limit:
            continue
        first, number, unit = drawn = _sizes.aspect_range("some_aspect", aspect, most)
        assert low - Fraction(1, unit) < Fraction(first, unit) <= low
        assert drawn.last == first + max(number - 1, 0)
        assert Fraction(drawn.last, unit) < high or number == 0
        assert 4 * most * drawn.last <= INT32_MAX
        assert 4 * most * unit <= INT32_MAX
        assert first >= 64 * min(1, low) - 1
        if low == high:
            assert number == 0
            if most <= 1000:
                assert Fraction(first, unit) == low


def test_drawn_steps_stay_in_the_range_and_a_single_value_is_itself():
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(1, 500)])
    drawn = _sizes.Steps(70, 30, 100)
    got = np.asarray(_sizes.draw_steps(draws, drawn))
    assert (got.min(), got.max()) == (70, 99)
    np.testing.assert_array_equal(got, [70 + (int(word) * 30 >> 32) for word in draws])
    assert set(_sizes.draw_steps(draws, _sizes.Steps(70, 0, 100)).tolist()) == {70}


@pytest.mark.parametrize(
    ("low", "high"),
    [
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
    ],
)
def test_drawn_counts_are_the_whole_parts_of_the_range(low, high):
    drawn = _sizes.whole_steps(low, high)
    first, number, unit = drawn
    assert drawn.first + drawn.number <= INT32_MAX
    assert unit >= 2**5
    assert Fraction(low) - Fraction(1, unit) < Fraction(first, unit) <= Fraction(low)
    assert number == 0 or Fraction(drawn.last, unit) < Fraction(high)
    draws = np.concatenate([np.array(_EDGES, np.uint32), words(2, 200)])
    got = np.asarray(_sizes.draw_whole(draws, drawn))
    np.testing.assert_array_equal(got, [(first + (int(w) * number >> 32)) // unit for w in draws])
    assert got.min() == math.floor(low)
    last = math.floor(low) if low == high else math.ceil(high) - 1
    assert got.max() == last
    assert _sizes.least_and_most(drawn) == (math.floor(low), last)


def _sizes_within(sizes):
    """All (height, width) that a plan can draw, before clamping.

    With the aspect ratio the height only grows and the width only shrinks, so that both are the
    same all the way between two steps where both are the same.
    """
    first, last, unit = sizes.aspects.first, sizes.aspects.last, sizes.aspects.unit
    fewest, most = sizes.counts.first // sizes.counts.unit, sizes.counts.last // sizes.counts.unit
    found = set()
    for count in range(fewest, most + 1):

        @functools.cache
        def size(aspect, count=count):
            return (
                root(Fraction(count * aspect, unit), half_even=True),
                root(Fraction(count * unit, aspect), half_even=True),
            )

        spans = [(first, last)]
        while spans:
            low, high = spans.pop()
            found |= {size(low), size(high)}
            if size(low) != size(high) and high - low > 1:
                spans += [(low, (low + high) // 2), ((low + high) // 2, high)]
    return found


@pytest.mark.parametrize(
    ("counts", "aspect"),
    [
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
    ],
    ids=str,
)
def test_plan_has_every_height_with_exactly_its_greatest_width(counts, aspect):
    sizes = _sizes.jepa_sizes("some_aspect", _sizes.whole_steps(*counts), aspect, 2)
    greatest = {}
    for height, width in _sizes_within(sizes):
        greatest[height] = max(greatest.get(height, 0), width)
    expected = [(max(height, 1), max(width, 1)) for height, width in sorted(greatest.items())]
    assert list(sizes.widest) == expected


def test_a_height_flips_at_the_very_step_beyond_its_tie():
    # Steps of 1/4: 2.5 ** 2 is 25 steps. 1 token is 2 high up to there and 3 high only beyond.
    for first, last, expected in [(24, 25, {2}), (24, 26, {2, 3}), (25, 25, {2}), (26, 26, {3})]:
        heights = {root(Fraction(aspect, 4), half_even=True) for aspect in range(first, last + 1)}
        assert heights == expected
        got = jax.jit(functools.partial(_sizes.traced_rounded_sqrt, half_even=True))(
            4 * np.arange(first, last + 1, dtype=np.int32), jnp.int32(4)
        )
        assert set(got.tolist()) == expected


@pytest.mark.parametrize(
    ("grid", "scale", "aspect"),
    [
        ((1, 4096), (0.1, 1.0), (0.75, 1.5)),
        ((2000, 2000), (0.15, 0.2), (0.75, 1.5)),
        ((2000, 2000), (0.9, 1.0), (1.0, 1.0)),
        ((24, 24), (0.001, 1.0), (0.02, 4.0)),
    ],
)
def test_drawn_sizes_are_the_roots_of_what_is_drawn_also_on_large_grids(grid, scale, aspect):
    tokens = math.prod(grid)
    counts = _sizes.whole_steps(*(tokens * end for end in scale))
    sizes = _sizes.jepa_sizes("some_aspect", counts, aspect, 2)
    draws = words(5, 2, 1500)
    draws[:, : len(_EDGES)] = _EDGES
    got = jax.jit(functools.partial(_sizes.draw_jepa_size, sizes=sizes))(*draws)
    unit = sizes.aspects.unit
    expected, widest = [], {}
    for height, width in sizes.widest:
        widest[height] = max(width, widest.get(height, 0))
    for count_word, aspect_word in draws.T.tolist():
        count = (counts.first + (count_word * counts.number >> 32)) // counts.unit
        ratio = Fraction(sizes.aspects.first + (aspect_word * sizes.aspects.number >> 32), unit)
        low, high = map(Fraction, aspect)
        assert abs(ratio - low - (high - low) * aspect_word / 2**32) < Fraction(3, unit)
        size = root(count * ratio, half_even=True), root(count / ratio, half_even=True)
        assert max(size[1], 1) <= widest[max(size[0], 1)]
        expected.append(size)
    np.testing.assert_array_equal(np.transpose(got), expected)


def test_ijepa_block_of_two_thousand_tokens_a_side():
    options = {"num_targets": 1, "target_scale": (0.25, 0.25), "target_aspect_ratio": (0.5, 0.5)}
    draw = jax.jit(lambda key: jm.ijepa_masks(key, (2000, 2000), **options).targets)
    targets = draw(jax.random.key(0))
    rows, columns = np.asarray(targets[0].any(1)).sum(), np.asarray(targets[0].any(0)).sum()
    # sqrt(1_000_000 * 0.5) = 707.1, sqrt(1_000_000 / 0.5) = 1414.2
    assert (rows, columns, int(targets.sum())) == (707, 1414, 707 * 1414)


def test_place_reaches_the_first_and_the_last_position_and_none_beyond():
    size, room = ([1, 2, 3, 5], [7, 7, 1, 4]), (5, 7)
    size = [np.array(part, np.int32) for part in size]
    for word in _EDGES:
        draws = [np.full(4, word, np.uint32)] * 2
        start = _boxes.place(draws, size, room)
        for at, part, side in zip(start, size, room, strict=True):
            expected = [word * (side - int(one) + 1) >> 32 for one in part]
            np.testing.assert_array_equal(at, expected)
            assert (np.asarray(at) >= 0).all()
            assert (np.asarray(at) + part <= side).all()
    last = _boxes.place([np.full(4, 2**32 - 1, np.uint32)] * 2, size, room)
    np.testing.assert_array_equal(last, [[4, 3, 2, 0], [0, 0, 6, 3]])


def test_clamp_keeps_at_least_one_token_and_at_most_the_side():
    height, width = _boxes.clamp((np.array([0, 1, 5, 6, 99]), 9), (5, 7))
    np.testing.assert_array_equal(height, [1, 1, 5, 5, 5])
    assert int(width) == 7


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
def test_boxes_and_their_union_are_those_of_a_loop(grid):
    rng = np.random.default_rng(7)

    @jax.jit
    def draw(cases):
        return [
            jax.vmap(functools.partial(f, grid=grid))(*case)
            for case in cases
            for f in (_boxes.union, _boxes.each_box)
        ]

    cases = []
    for n in _NUM_BOXES:
        # Few tokens in each, so that each box has tokens of its own.
        size = [rng.integers(1, min(side, 2) + 1, (12, n), np.int32) for side in grid]
        start = [
            rng.integers(0, side - part + 1, dtype=np.int32)
            for side, part in zip(grid, size, strict=True)
        ]
        cases.append((start, size))
    got = draw(cases)
    for number, (start, size) in enumerate(cases):
        expected = np.zeros((12, _NUM_BOXES[number], *grid), bool)
        for i, j in np.ndindex(expected.shape[:2]):
            corner = tuple(
                slice(at[i, j], at[i, j] + part[i, j]) for at, part in zip(start, size, strict=True)
            )
            expected[i, j][corner] = True
        np.testing.assert_array_equal(got[2 * number], expected.any(1))
        np.testing.assert_array_equal(got[2 * number + 1], expected)


@pytest.mark.parametrize("n", _NUM_BOXES)
def test_each_box_of_a_union_is_in_it(n):
    # Box i is token i alone: a union without any one of them would miss its token.
    start = (np.arange(n, dtype=np.int32), np.zeros(n, np.int32))
    got = jax.jit(lambda start: _boxes.union(start, (1, 1), (n + 1, 2)))(start)
    np.testing.assert_array_equal(got, [[i < n, False] for i in range(n + 1)])


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (7,), (3, 2, 5)])
def test_leave_one_clears_each_token_for_its_share_of_the_draws(shape):
    tokens = math.prod(shape)
    first = [-(-(i << 32) // tokens) for i in range(tokens + 1)]
    draws = np.array([*first[:-1], *(word - 1 for word in first[1:])], np.uint32)
    full = np.ones(shape, bool)
    leave = jax.jit(jax.vmap(_boxes.leave_one, (None, None, 0)))
    left = np.asarray(leave(full, True, draws)).reshape(2, tokens, tokens)
    np.testing.assert_array_equal(left, [~np.eye(tokens, dtype=bool)] * 2)
    mask = np.arange(tokens).reshape(shape) % 2 == 0
    np.testing.assert_array_equal(leave(mask, False, draws), [mask] * (2 * tokens))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (9, 1), (1, 31), (5, 31), (5, 32), (1, 33), (5, 33), (3, 70)]
)
def test_count_before_is_the_cumulative_sum(height, width):
    rng = np.random.default_rng(9)
    chance = np.linspace(0, 1, 21)[:, None, None]
    masks = rng.random((21, height, width)) < chance
    flat = masks.reshape(21, -1)
    expected = (np.cumsum(flat, axis=1) - flat).reshape(masks.shape)
    got = jax.jit(jax.vmap(ijepa._count_before))(masks)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, expected)
