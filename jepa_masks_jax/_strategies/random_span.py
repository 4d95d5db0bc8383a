"""Random spans: an exact count of tokens in an exact count of spans, as T5 masks text."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _counts, _draws, _subsets, _tracing, _within
from jepa_masks_jax._check import Count, CountOrRange, Grid, Range, Real, Within


def random_span_mask(
    key: jax.Array,
    grid: Grid,
    *,
    mask_ratio: Real | Range | None = None,
    num_masked: CountOrRange | None = None,
    mean_span: Real | None = None,
    num_spans: Count | None = None,
    ends: Literal["free", "t5"] = "free",
    within: Within | None = None,
) -> jax.Array:
    """Samples exactly `n` tokens of a sequence in exactly `s` spans of random lengths.

        .###...##.....####..     #  target    .  context
                                 (num_masked=9, num_spans=3)

    Every such mask is equally likely. On a sequence of `L` tokens there are
    `C(n - 1, s - 1) * C(L - n + 1, s)` of them, where `C` is the binomial coefficient: the masked
    tokens are cut at `s - 1` of the `n - 1` seams between them, and the spans are put into `s` of
    the `L - n + 1` gaps before, between and after the context tokens.

    - `n` is what `mask_ratio` or `num_masked` gives, as in `random_mask`: a ratio, a count, a pair
      to sample from, or an array. It is at least 1 and at most `L - 1`.
    - `s` is `num_spans`, or `round(n / mean_span)`, half to even; then it is clamped into
      `[1, min(n, L - n + 1)]`. A decimal `mean_span` is taken exactly: 1.2 is 6/5.
    - With `ends="t5"` the first token is context and the last one is masked, as in T5's own code.
      Then `s` is at most `min(n, L - n)`, and there are `C(n - 1, s - 1) * C(L - n - 1, s - 1)`
      equally likely masks.

    Spans never touch. For spans of one fixed length use `span_mask`.

    Args:
        key: a single PRNG key.
        grid: `(length,)`, at least two tokens.
        mask_ratio: fraction of the tokens to mask, in `(0, 1)`, or a pair `(min, max)`.
        num_masked: count of tokens to mask, from 1 to `length - 1`; or a pair `(min, max)`, from
            which it is sampled uniformly, both included; or an integer array of shape (), traced or
            not, clamped into that range. Exactly one of `mask_ratio` and `num_masked` is given.
        mean_span: mean length of the spans, at least 1.
        num_spans: count of spans, from 1 to `(length + 1) // 2`, or to `length // 2` with T5's
            ends; or an integer array of shape (), traced or not. Exactly one of `mean_span` and
            `num_spans` is given.
        ends: `"free"`, or `"t5"`: context first and a span last.
        within: the real length of a sample that is shorter than the grid, `(length,)`: an int, or
            an integer array of shape `(1,)`, traced or not, clamped into `[1, length]`. The mask is
            the one that `grid=within` gives with the same key, False outside, and the context is
            `inside(grid, within) & ~mask`.

    Returns:
        bool[length], True at the target tokens. The context is its complement.

    Raises:
        TypeError: if `key` is not a key, an option is of the wrong type, or unless exactly one of
            `mask_ratio` and `num_masked` and exactly one of `mean_span` and `num_spans` is given.
        ValueError: if an option is out of its range.

    Notes:
        With T5's ends and one span, the mask is always the last `n` tokens. So are all masks of
        T5's setting (ratio 0.15, mean 3) on texts of up to 30 tokens. For those use `ends="free"`.

        If there is only one real token, the mask is empty.

        The seven settings of UL2, all with `ends="t5"`:

            R    mask_ratio=0.15, mean_span=3      mask_ratio=0.15, mean_span=8
            X    mask_ratio=0.5,  mean_span=3      mask_ratio=0.5,  mean_span=8
                 mask_ratio=0.15, mean_span=64     mask_ratio=0.5,  mean_span=64
            S    mask_ratio=0.25, num_spans=1

    Source:
        Raffel et al. (2020), "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
        Transformer", section 3.3.4; `random_spans_noise_mask` of `t5/data/preprocessors.py` of
        github.com/google-research/text-to-text-transfer-transformer.
        Tay et al. (2022), "UL2: Unifying Language Learning Paradigms", section 3.1.
        Chen et al. (2024), "F5-TTS: A Fairytaler that Fakes Fluent and Faithful Speech with Flow
        Matching"; `mask_from_frac_lengths` of `src/f5_tts/model/utils.py` of
        github.com/SWivid/F5-TTS.
        Zerveas et al. (2021), "A Transformer-based Framework for Multivariate Time Series
        Representation Learning", section 3.2.

    Example:
        >>> mask = random_span_mask(jax.random.key(0), (512,), mask_ratio=0.15, mean_span=3)
        >>> first = mask & ~jnp.append(False, mask[:-1])  # the first token of each span
        >>> int(mask.sum()), int(first.sum())
        (77, 26)

        T5's inputs of `L - n + s` and targets of `n + s` tokens: a sentinel stands for each span in
        the one, and for each run of context in the other. Both lengths are static and exact; for
        `presets.t5` they follow from `n = round(0.15 * L)` and `s = round(n / 3)`.

        >>> import jepa_masks_jax as jm
        >>> def with_sentinels(tokens, mask, size):
        ...     first = mask & ~jnp.append(False, mask[:-1])
        ...     tokens = jnp.where(first, 32_100 - jnp.cumsum(first), tokens)
        ...     return tokens[jm.token_indices(~mask | first, size=size).indices]
        >>> options = {"num_masked": 5, "num_spans": 2, "ends": "t5"}
        >>> mask = random_span_mask(jax.random.key(0), (12,), **options)
        >>> with_sentinels(jnp.arange(12), mask, 12 - 5 + 2).tolist()
        [0, 1, 2, 3, 4, 32099, 8, 9, 32098]
        >>> with_sentinels(jnp.arange(12), ~mask, 5 + 2).tolist()
        [32099, 5, 6, 7, 32098, 10, 11]

        Padded speech: one span of 70 to 100 % of each utterance, but at least one frame stays.

        >>> def sample(key, length):
        ...     options = {"mask_ratio": (0.7, 0.999), "num_spans": 1, "within": (length,)}
        ...     return random_span_mask(key, (200,), **options)
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> jax.vmap(sample)(keys, jnp.array([200, 75, 30])).sum(1).tolist()
        [190, 52, 29]
    """
    key, grid = _check.key(key), _check.grid(grid, (1,))
    (length,) = grid
    masked = _counts.masked(mask_ratio, num_masked, length)
    is_t5 = _check.choice("ends", ends, "free", "t5") == "t5"
    _check.exactly_one(mean_span=mean_span, num_spans=num_spans)
    if mean_span is not None:
        mean_span = _check.real("mean_span", mean_span, _NUM_SPANS_INSTEAD)
        if mean_span < 1:
            raise ValueError(f"mean_span must be at least 1, got {mean_span}")
    else:
        num_spans = _check.count("num_spans", num_spans, 1, (length + (not is_t5)) // 2)

    @_tracing.jit
    def sample(key: jax.Array, masked: Any, num_spans: Any, within: Any) -> jax.Array:
        (real_length,) = _within.real_part(grid, within).within
        words = _draws.random_words(key, 2 * length)
        # A word for each seam and each gap. Nothing is cut before the first token: its is free.
        seam_words, gap_words = words[::2], words[1::2]
        count = _counts.sample_masked(seam_words[0], real_length, masked, largest=length)
        context = real_length - count
        if mean_span is not None:
            num_spans = _tracing.planned(_plan_spans, count, mean_span, largest=length)
        gaps = context if is_t5 else context + 1
        spans = _check.clamp(num_spans, 1, jnp.minimum(count, gaps))
        place = lax.iota(jnp.int32, length)
        cut = _subsets.random_subset(seam_words, (place > 0) & (place < count), spans - 1)
        if is_t5:
            inner = (place > 0) & (place < context)
            gap = _subsets.random_subset(gap_words, inner, spans - 1) | (place == context)
        else:
            gap = _subsets.random_subset(gap_words, place <= context, spans)
        return _spread(cut, gap, count)

    return sample(key, masked, num_spans, _check.within(within, grid))


def _spread(cut: jax.Array, gap: jax.Array, count: jax.Array) -> jax.Array:
    """Marks the first `count` tokens after they are cut into spans and each span has its gap.

    Args:
        cut: bool[length], True at the first token of each span but the first.
        gap: bool[length], True at the count of context tokens that stand before each span.
        count: int32[].

    Returns:
        bool[length].
    """
    length = cut.size
    place = lax.iota(jnp.int32, length)
    before = jnp.sort(jnp.where(gap, place, length))
    moved = place + before[jnp.cumsum(cut, dtype=jnp.int32)]
    return _subsets.at_places(jnp.where(place < count, moved, length), length)


_NUM_SPANS_INSTEAD = (
    ", or give num_spans=jnp.round(n / mean_span).astype(int), which may be traced, and "
    "mean_span=None if a preset has bound it"
)


def _plan_spans(count: np.ndarray, mean_span: float) -> Any:
    """Plans the count of spans, `count / mean_span` rounded half to even."""
    # Python's own integers, because the products may exceed 64 bits.
    numerator, denominator = Fraction(str(mean_span)).as_integer_ratio()
    times = count.astype(object) * denominator
    whole, rest = times // numerator, times % numerator
    return whole + (2 * rest + whole % 2 > numerator)
