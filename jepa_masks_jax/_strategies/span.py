"""Spans of a sequence: the masks of wav2vec 2.0 and HuBERT."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _draws, _subsets, _tracing, _within
from jepa_masks_jax._check import Grid, Int, Real, Within


def span_mask(
    key: jax.Array,
    grid: Grid,
    *,
    mask_ratio: Real,
    span: Int,
    overlap: bool = True,
    within: Within | None = None,
) -> jax.Array:
    """Samples a target of equally long spans of a sequence, such as speech frames.

        .###...####..     #  target    .  context
                          (span=3, two of the spans overlap)

    On a sequence of `L` tokens:

    1. There are `floor(mask_ratio * L / span + u)` spans, with `u` uniform in `[0, 1)`, but at
       least 1 and at most `(L - 1) // span`.
    2. If `overlap`, their starts are distinct and uniform over every start that keeps a span
       inside. Otherwise the spans share no token, and every such placement is equally likely.

    With `overlap`, `mask_ratio` is nominal: the actual ratio is usually lower. For an exact count
    use `overlap=False`: the count is then `span` times the number of spans, which varies by one
    unless `mask_ratio * L / span` is whole. A decimal `mask_ratio` is taken exactly: 0.65 is 13/20.

    Args:
        key: a single PRNG key.
        grid: `(length,)`, at least two tokens.
        mask_ratio: fraction of the tokens that the spans would hold without overlap, in `(0, 1)`.
        span: tokens of a span, from 1 to `length - 1`.
        overlap: whether spans may share tokens.
        within: the real length of a sample that is shorter than the grid, `(length,)`: an int, or
            an integer array of shape `(1,)`, traced or not, clamped into `[1, length]`. The mask is
            the one that `grid=within` gives with the same key, False outside, and the context is
            `inside(grid, within) & ~mask`.

    Returns:
        bool[length], True at the target tokens. At least one token is True and at least one is
        False. The context is its complement.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if an option is out of its range.

    Notes:
        `.github/RECIPES.md` has padded speech. On a CPU the time grows with `span` times length:
        spans of 50,000 in 100,000 tokens take seconds.

        If the real length is `span` or less, which `grid=` refuses, the span is cut to one token
        less than the real length. If there is only one real token, it is context.

    Source:
        Baevski et al. (2020), "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
        Representations", section 3.1; `compute_mask_indices` of
        `fairseq/data/data_utils.py` of github.com/facebookresearch/fairseq. There no span reaches
        the last token, and all masks of a batch are cut to the shortest.

    Example:
        >>> mask = span_mask(jax.random.key(0), (100,), mask_ratio=0.65, span=10)
        >>> mask.shape, mask.dtype
        ((100,), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, (1,))
    (length,) = grid
    mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    span = _check.integer("span", span, 1, length - 1)
    overlap = _check.flag("overlap", overlap)

    @_tracing.jit
    def sample(key: jax.Array, within: Any) -> jax.Array:
        def plan(lengths: np.ndarray) -> tuple[_draws.Uniform, Any, Any]:
            """Plans the count of spans before it is rounded down, its maximum, and their length."""
            # Python's own integers, because the products may exceed 64 bits.
            numerator, denominator = Fraction(str(mask_ratio)).as_integer_ratio()
            over, under = numerator * lengths.astype(object), denominator * span
            unit = _draws.finest_unit((over // under + 1).astype(int)).astype(object)
            spans = _draws.Uniform(over * unit // under, unit, unit)
            return spans, np.maximum((lengths - 1) // span, 1), np.minimum(span, lengths - 1)

        (real_length,) = _within.real_part(grid, within).within
        spans, maximum, real_span = _tracing.planned(plan, real_length, largest=length)
        num_starts = real_length - real_span + 1
        words = _draws.random_words(key, length + 1)
        count = jnp.clip(spans.sample_floor(words[num_starts]), 1, maximum)
        start = lax.iota(jnp.int32, length)
        if overlap:
            starts = _subsets.random_subset(words[:-1], start < num_starts, count)
        else:
            # Choose single tokens of a shorter sequence, then stretch each chosen one to a span.
            shift = real_span - 1
            places = start < num_starts - (count - 1) * shift
            chosen = _subsets.random_subset(words[:-1], places, count)
            number = jnp.cumsum(chosen, dtype=jnp.int32) - 1
            moved = jnp.where(chosen, start + shift * number, length)
            starts = _subsets.at_places(moved, length)
        reached = lax.reduce_window(starts, False, lax.bitwise_or, (span,), (1,), ((span - 1, 0),))
        # A span that is cut to a short sample is its only one, and ends before the window does.
        last_stop = jnp.max(jnp.where(starts, start + real_span, 0))
        return reached & (start < last_stop)

    return sample(key, _check.within(within, grid))
