"""The sides of blocks: which ones a setting can reach (plain Python), and sampling them (traced).

A side is `round(sqrt(x))` of a real number `x`. It is found in whole numbers, so that the same
words give the same side on every backend, from one identity: for a whole number `s` of at least 1

    round(sqrt(x)) >= s    exactly if    4 * x >= (2 * s - 1) ** 2

since `round(y) >= s` says `y >= s - 1/2`. If both are equal, `y` is halfway between two whole
numbers: half away from zero goes up to `s`, half to even goes up only if `s` is even.
"""

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _draws
from jepa_masks_jax._draws import Uniform

_INT32_BITS = 31

_COARSEST = 64
"""Steps of an aspect ratio are at most 1/64 of it. An option that needs coarser ones is refused."""

_DECIMAL = 1000
"""An aspect ratio has a multiple of 1000 steps to one if they fit: 0.8 is then exactly 4/5, and
`sqrt(5 / 0.8)` the tie that it is."""

JEPA_ASPECT_RATIO = (0.75, 1.5)
"""The aspect ratios of the blocks of all published I-JEPA and V-JEPA runs."""


def aspect_unit(
    name: str, aspect_ratio: tuple[float, float], largest: Any, per_token: float
) -> Any:
    """Returns the steps to one of an aspect ratio, for blocks of up to `largest` tokens.

    They are the finest with `largest * per_token` of them within int32. `largest` is an int or
    an array, and so is the result.

    Raises:
        ValueError: naming the option `name`, if they would be too coarse.
    """
    low, high = aspect_ratio
    unit = np.floor_divide(2.0**_INT32_BITS, per_token * np.maximum(largest, 1) + 1).astype(int)
    if np.any(unit * min(low, 1) < _COARSEST):
        coarsest = np.ceil(_COARSEST / min(low, 1))  # Infinite for the smallest floats.
        limit = max(int((2**_INT32_BITS / coarsest - 1) / per_token), 0)
        raise ValueError(
            f"{name} from {low:g} to {high:g} leaves 32-bit arithmetic room for blocks of up to "
            f"{limit} tokens, and here a block may have {int(np.max(largest))}"
        )
    return unit


class AspectRatio(NamedTuple):
    """An aspect ratio as given, and as the decimal fractions that its digits say."""

    ends: tuple[float, float]
    exact: tuple[tuple[int, int], tuple[int, int]]


def read_aspect_ratio(ends: tuple[float, float]) -> AspectRatio:
    """Reads the digits, once for the plans of all sizes."""
    low, high = (Fraction(str(end)).as_integer_ratio() for end in ends)
    return AspectRatio(ends, (low, high))


def check_aspect_ratio(name: str, value: Any, rank: int) -> AspectRatio | None:
    """Returns the aspect ratio of I-JEPA's and V-JEPA's blocks, None on a sequence."""
    ends = _check.real_range(name, value, high=None)
    if rank > 1:
        return read_aspect_ratio(ends)
    if ends != JEPA_ASPECT_RATIO:
        raise ValueError(
            f"{name} has no meaning on a sequence and must be {JEPA_ASPECT_RATIO}, got {ends}"
        )
    return None


def aspects(name: str, aspect_ratio: AspectRatio, largest: Any) -> Uniform:
    """Returns the distribution of an aspect ratio for blocks of up to `largest` tokens.

    `4 * count * aspect` and `4 * count / aspect` stay within int32. If both ends are the same it is
    exact, if its digits fit. The finer of two grains that fit wins. `high / low` is not needed for
    int32: it is part of what the digests hold.
    """
    low, high = aspect_ratio.ends
    unit = aspect_unit(name, aspect_ratio.ends, largest, 4 * max(high, high / low, 1))
    (low_over, low_under), (high_over, high_under) = aspect_ratio.exact
    # Python's own integers, because products with the digits may exceed 64 bits.
    finest = unit = np.asarray(unit).astype(object)
    for grain in [low_under, math.lcm(_DECIMAL, low_under)] if low == high else [_DECIMAL]:
        unit = np.where(finest >= grain, finest - finest % grain, unit)
    first, last = low_over * unit // low_under, high_over * unit // high_under
    return Uniform(first, last - first, unit)


def log_uniform(low: float, high: float) -> np.ndarray:
    """Returns equally likely numbers for one that is log-uniform: float64[1024].

    They are the middles of equal parts; from 0.3 to 1 / 0.3 they are 0.24 % apart.
    """
    return np.clip(np.geomspace(low, high, 2 * 1024 + 1)[1::2], low, high)


class JepaBlocks(NamedTuple):
    """Blocks of `round(sqrt(n * aspect))` by `round(sqrt(n / aspect))` tokens, half to even.

    A block of a sequence is `n` tokens long.
    """

    counts: Uniform
    aspects: Uniform | None
    """None on a sequence."""


def jepa_blocks(
    tokens: Any, name: str, scale: tuple[float, float], aspect_ratio: AspectRatio | None
) -> JepaBlocks:
    """Plans the blocks of I-JEPA and V-JEPA for a grid or a frame of so many tokens.

    Args:
        tokens: the count of its tokens, or an array of counts.
        name: of the aspect ratio's option, for errors.
        scale: `(min, max)` of a block's fraction of the tokens.
        aspect_ratio: None on a sequence.
    """
    low, high = scale
    counts = _draws.whole_uniform(tokens * low, tokens * high)
    if aspect_ratio is None:
        return JepaBlocks(counts, None)
    return JepaBlocks(counts, aspects(name, aspect_ratio, counts.whole[1]))


def squares(tokens: Any, scale: tuple[float, float], *, on_sequence: bool) -> JepaBlocks:
    """Plans blocks of aspect ratio 1, or on a sequence of its one side."""
    low, high = scale
    return JepaBlocks(
        _draws.whole_uniform(tokens * low, tokens * high),
        None if on_sequence else Uniform(1, 0, 1),
    )


def sample_jepa_sides(
    count_word: jax.Array,
    aspect_word: jax.Array,
    blocks: JepaBlocks,
    room: Sequence[Any],
    *,
    keep_area: bool,
) -> tuple[jax.Array, ...]:
    """Samples the sides of a block: uint32 words, int32 sides.

    Args:
        count_word: the word of the block's count.
        aspect_word: the word of its aspect ratio.
        blocks: the plan.
        room: the sides of the grid or the frame.
        keep_area: whether a side extends if the other does not fit, on a room that is not square.
    """
    count = blocks.counts.sample_whole(count_word)
    if blocks.aspects is None:
        return (count,)
    sides = traced_sides(count, blocks.aspects.sample(aspect_word), blocks.aspects.unit)
    return _keep_area(count, sides, room, jnp.where) if keep_area else sides


def _keep_area(count: Any, sides: Any, room: Sequence[Any], where: Callable[..., Any]) -> Any:
    """Extends a side if the other does not fit into a room that is not square.

    It becomes `round(count / room_side)`, half up.
    """
    extended = [(2 * count + length) // (2 * length) for length in room]
    fits = [
        (side <= length) | (room[0] == room[1]) for side, length in zip(sides, room, strict=True)
    ]
    return where(fits[1], sides[0], extended[1]), where(fits[0], sides[1], extended[0])


@functools.lru_cache(maxsize=1024)
def reached_sides(
    blocks: JepaBlocks, room: tuple[int, ...], *, keep_area: bool, smallest: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Lists sides that `sample_jepa_sides` reaches, as `place_each` cuts them to the room.

    They are those of the maximum count, for every height the widest, and no block is larger: at the
    same aspect ratio a larger count is at least as high and as wide. Likewise no block is smaller
    than the `smallest`: those of the minimum count, for every height the narrowest.
    The result is cached for eager calls.
    """
    count = blocks.counts.whole[not smallest]
    if blocks.aspects is None:
        return ((min(max(count, 1), room[0]),),)
    first, last, unit = blocks.aspects.first, blocks.aspects.last, blocks.aspects.unit
    if count == 0:
        return ((1, 1),)
    reached = []
    lowest, highest = (rounded_sqrt(4 * count * a, unit, half_even=True) for a in (first, last))
    for height in range(lowest, highest + 1):
        # The aspect ratios that make it as high are the steps from one bound to the next.
        start, stop = (-(-_minimum_four_x(h, unit) // (4 * count)) for h in (height, height + 1))
        start, stop = max(start, first), min(stop - 1, last)
        if start > stop:
            continue
        width = rounded_sqrt(4 * count * unit, stop if smallest else start, half_even=True)
        sides: tuple[int, ...] = (height, width)
        if keep_area:
            sides = tuple(map(int, _keep_area(count, sides, room, np.where)))
        reached.append(tuple(min(max(s, 1), length) for s, length in zip(sides, room, strict=True)))
    return tuple(reached)


def traced_sides(
    count: jax.Array, aspect: jax.Array, unit: Any, per_token: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns `round(sqrt(n * a))` and `round(sqrt(n / a))`, half to even.

    Args:
        count: int32, `n` in steps of `1 / per_token`.
        aspect: int32, `a` in steps of `1 / unit`.
        unit: the steps to one of `a`.
        per_token: the steps to one of `n`.
    """
    return (
        traced_rounded_sqrt(4 * count * aspect, jnp.int32(per_token * unit), half_even=True),
        traced_rounded_sqrt(4 * count * unit, per_token * aspect, half_even=True),
    )


def rounded_sqrt(four_x: int, divisor: int = 1, *, half_even: bool = False) -> int:
    """Returns `round(sqrt(x / divisor))`, half away from zero or half to even."""
    side = (math.isqrt(four_x // divisor) + 1) // 2
    is_odd_tie = half_even and side % 2 and (2 * side - 1) ** 2 * divisor == four_x
    return side - 1 if is_odd_tie else side


def traced_rounded_sqrt(
    four_x: jax.Array, divisor: jax.Array, *, half_even: bool = False
) -> jax.Array:
    """Returns `round(sqrt(x / divisor))` of int32, at most 2**30 after the division.

    The float floor can be one off only next to a whole number, and the test in whole numbers gives
    that number from both.
    """
    floor = (jnp.sqrt(lax.div(four_x, divisor).astype(jnp.float32)) / 2).astype(jnp.int32)
    up = floor + 1
    if half_even:
        four_x = four_x - up % 2  # A tie must not reach an odd side.
    return floor + ((2 * up - 1) ** 2 <= lax.div(four_x, divisor)).astype(jnp.int32)


def _minimum_four_x(side: int, divisor: int) -> int:
    """Returns the minimum whole `4 * x` for which `round(sqrt(x / divisor))` is `side`."""
    return (2 * side - 1) ** 2 * divisor + side % 2 if side > 0 else 0
