"""The sides of blocks of I-JEPA and V-JEPA in exact fractions, and all that a setting can reach.

That is searched over all counts and, between the aspect ratios at which a side changes, one of each
interval.
"""

import itertools
import math
from fractions import Fraction

import jax
import numpy as np
from transcription import keys_and_words, real

DEFAULT = (0.75, 1.5)
LARGEST = (64, 64)
SIZES = [(8, 64), (64, 8), (16, 32), (8, 32), (27, 31), (31, 9), (1, 64), (24, 25), (24, 24)]


def of_every_size(function):
    """What a function of a key and a size samples for each of the sizes, in one program."""
    keys, _ = keys_and_words(30)
    draw = jax.jit(jax.vmap(function, (0, None)))
    return {size: jax.tree.map(np.asarray, draw(keys, np.array(size))) for size in SIZES}


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


def assert_sides_are_those_of_the_words(masks, words, frame, scale, aspect):
    """Of masks that are one block each; a block reads the words of its scale and its aspect."""
    sides = np.stack([masks.any(2).sum(1), masks.any(1).sum(1)], axis=1)
    np.testing.assert_array_equal(masks.sum((1, 2)), sides.prod(1))
    for i, (height, width) in enumerate(sides.tolist()):
        n = math.floor(math.prod(frame) * real(words[i, 0], *scale))
        expected = sides_in(frame, n, Fraction(real(words[i, 1], *aspect)))
        assert (height, width) == expected, f"key {i}"


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


def areas(frame, scale, aspect):
    return [math.prod(sides) for sides in all_sides(frame, scale, aspect)]


def random_settings(count):
    """Frames, numbers of blocks, scales and aspect ratios."""
    rng = np.random.default_rng(3)
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(1, 15, 2))
        scale = sorted(rng.uniform(0.02, 1, 2).round(2).tolist())
        aspect = sorted(rng.uniform(0.2, 4, 2).round(2).tolist())
        if height * width > 1:
            yield (height, width), int(rng.integers(2, 7)), tuple(scale), tuple(aspect)
