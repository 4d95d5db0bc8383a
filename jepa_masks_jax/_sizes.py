"""The sides of blocks: planning them (NumPy), listing them (Python), sampling them (traced).

A side is `round(sqrt(x))` of a real number `x`. It is found in integers, so that the same words
give the same side on every backend, from one identity: for an integer `s` of at least 1

    round(sqrt(x)) >= s    exactly if    4 * x >= (2 * s - 1) ** 2

since `round(y) >= s` says `y >= s - 1/2`. If both are equal, `y` is halfway between two integers:
half away from zero goes up to `s`, half to even goes up only if `s` is even.

The masks of every key depend on `aspect_unit` and on the entries of `log_uniform`, so they are as
public as names.
"""

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

_SMALLEST_ASPECT = 64
"""An aspect ratio has at least so many steps. An option that leaves room for fewer is refused."""

JEPA_ASPECT_RATIO = (0.75, 1.5)
"""The aspect ratios of the blocks of all published I-JEPA and V-JEPA runs."""

SQUARE = Uniform(1, 1, 1)
"""The one aspect ratio of a square: whatever the word, it is 1."""


def check_aspect_ratio(name: str, value: Any, rank: int) -> tuple[float, float] | None:
    """Returns the aspect ratio of I-JEPA's and V-JEPA's blocks, None on a sequence."""
    ends = _check.pair(name, value, _check.positive)
    if rank > 1:
        return ends
    _check.refuse_unless_default(name, ends, JEPA_ASPECT_RATIO, "on a sequence")
    return None


def aspect_unit(name: str, aspect_ratio: tuple[float, float], tokens: Any, per_token: float) -> Any:
    """Returns the finest unit of an aspect ratio, for blocks of up to so many tokens.

    The result times `tokens * per_token + 1` is at most 2**31. `tokens` is an int or an array, and
    so is the result.

    Raises:
        ValueError: naming the option `name`, if the smallest aspect ratio has too few steps.
    """
    low, high = aspect_ratio
    unit = np.floor_divide(2.0**31, per_token * np.maximum(tokens, 1) + 1).astype(int)
    if np.any(unit * min(low, 1) < _SMALLEST_ASPECT):
        coarsest = np.ceil(_SMALLEST_ASPECT / min(low, 1))  # Infinite for the smallest floats.
        limit = max(int((2**31 / coarsest - 1) / per_token), 0)
        raise ValueError(
            f"{name} from {low:g} to {high:g} leaves 32-bit arithmetic room for blocks of up to "
            f"{limit} tokens, and here a block may have {int(np.max(tokens))}"
        )
    return unit


def aspects(name: str, aspect_ratio: tuple[float, float], tokens: Any) -> Uniform:
    """Returns the distribution of an aspect ratio for blocks of up to so many tokens.

    In steps, `4 * count * aspect` and `4 * count * unit` stay within int32. The unit is a multiple
    of 1000 if one fits. A single aspect ratio is exact if its denominator as a decimal fraction
    fits: 0.8 is then 4/5, and `sqrt(5 / 0.8)` is halfway between two integers, as its digits say.
    """
    low, high = aspect_ratio
    # The digests hold `high / low`, which int32 does not need.
    finest = aspect_unit(name, aspect_ratio, tokens, 4 * max(high, high / low, 1))
    (low_over, low_under), (high_over, high_under) = (
        Fraction(str(end)).as_integer_ratio() for end in aspect_ratio
    )
    factors = [low_under, math.lcm(1000, low_under)] if low == high else [1000]
    # Python's own integers, because products with the digits may exceed 64 bits.
    finest = unit = np.asarray(finest).astype(object)
    for factor in factors:
        unit = np.where(finest >= factor, finest - finest % factor, unit)
    first, last = low_over * unit // low_under, high_over * unit // high_under
    return Uniform(first, np.maximum(last - first, 1), unit)


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
    tokens: np.ndarray,
    name: str,
    scale: tuple[float, float],
    aspect_ratio: tuple[float, float] | None,
) -> JepaBlocks:
    """Plans the blocks of I-JEPA and V-JEPA.

    Args:
        tokens: the counts of tokens of grids or frames.
        name: of the aspect ratio's option, for errors.
        scale: `(min, max)` of a block's fraction of the tokens.
        aspect_ratio: None on a sequence.
    """
    counts = _draws.uniform(*(tokens * end for end in scale))
    sampled = None if aspect_ratio is None else aspects(name, aspect_ratio, counts.floors[1])
    return JepaBlocks(counts, sampled)


def sample_jepa_sides(
    count_word: jax.Array,
    aspect_word: jax.Array,
    blocks: JepaBlocks,
    room: Sequence[Any],
    *,
    keep_area: bool = True,
) -> tuple[jax.Array, ...]:
    """Samples the sides of a block: uint32 words, int32 sides.

    Args:
        count_word: the word of the block's count.
        aspect_word: the word of its aspect ratio.
        blocks: the plan.
        room: the sides of the grid or the frame.
        keep_area: whether a side extends if the other does not fit, on a room that is not square.
    """
    count = blocks.counts.sample_floor(count_word)
    if blocks.aspects is None:
        return (count,)
    sides = traced_sides(count, blocks.aspects.sample(aspect_word), blocks.aspects.unit)
    return _keep_area(count, sides, room, jnp.where) if keep_area else sides


def _keep_area(count: Any, sides: Any, room: Sequence[Any], where: Callable[..., Any]) -> Any:
    """Extends a side if the other does not fit into a room that is not square.

    It becomes `round(count / room_side)`, half up. `where` is NumPy's or JAX's.
    """
    is_square = room[0] == room[1]

    def side(axis: int, other: int) -> Any:
        extended = (2 * count + room[other]) // (2 * room[other])
        return where(is_square | (sides[other] <= room[other]), sides[axis], extended)

    return side(0, 1), side(1, 0)


def all_sides(
    count: int, aspects: Uniform | None, room: Sequence[int], *, keep_area: bool = True
) -> list[tuple[int, ...]]:
    """Lists the sides of blocks of so many tokens, as `place_each` cuts them to the room.

    Blocks of the largest count are the largest, and those of the smallest count the smallest: at
    the same aspect ratio a larger count is at least as high and as wide.
    """
    if count == 0:
        return [(1,) * len(room)]
    if aspects is None:
        return [(min(count, room[0]),)]
    found, aspect = [], aspects.first
    while aspect <= aspects.last:
        height = rounded_sqrt(4 * count * aspect, aspects.unit, half_even=True)
        width = rounded_sqrt(4 * count * aspects.unit, aspect, half_even=True)
        sides = _keep_area(count, (height, width), room, np.where) if keep_area else (height, width)
        cut = zip(map(int, sides), room, strict=True)
        found.append(tuple(min(max(side, 1), length) for side, length in cut))
        # As the aspect ratio rises, the block gets higher or narrower, one token at a time.
        # Where it does so next follows from the identity that this module begins with.
        higher = -(-((2 * height + 1) ** 2 * aspects.unit + (height + 1) % 2) // (4 * count))
        narrower = (4 * count * aspects.unit - width % 2) // (2 * width - 1) ** 2 + 1
        aspect = min(higher, narrower) if width else higher
    return found


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

    The float floor can be one off only next to an integer, and the test in integers gives that
    integer from both.
    """
    floor = (jnp.sqrt(lax.div(four_x, divisor).astype(jnp.float32)) / 2).astype(jnp.int32)
    up = floor + 1
    if half_even:
        # Half to even goes up to an odd side only from above the tie, by at least 1 in `4 * x`.
        four_x = four_x - up % 2
    return floor + ((2 * up - 1) ** 2 <= lax.div(four_x, divisor)).astype(jnp.int32)
