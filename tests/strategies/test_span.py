"""The masks of `span_mask`, overlapping and apart.

Their definitions, the law of wav2vec 2.0's loop, exact counts, and every placement equally likely.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import first_fast, slow
from sampling import (
    CHANCE,
    assert_defined,
    assert_same_distribution,
    assert_same_mean,
    counts,
    runs,
    sampled,
)
from scipy import stats
from transcription import keys_and_words, most_spans, span_mask, spans_apart

import jepa_masks_jax as jm

PRESETS = {"wav2vec2": jm.presets.wav2vec2, "hubert": jm.presets.hubert}


@pytest.mark.parametrize(
    ("length", "mask_ratio", "span"),
    first_fast([(100, 0.65, 10), (37, 0.01, 3), (20, 0.5, 1), (9, 0.1, 8)], fast=2),
)
def test_definition(length, mask_ratio, span):
    assert_defined(jm.span_mask, (length,), mask_ratio=mask_ratio, span=span)


@pytest.mark.parametrize(
    ("length", "mask_ratio", "span"),
    first_fast([(40, 0.55, 3), (17, 0.9, 4), (9, 0.01, 8)], fast=1),
)
def test_definition_of_spans_apart(length, mask_ratio, span):
    def definition(words, grid, overlap, **options):
        return spans_apart(words, grid, **options)

    options = {"mask_ratio": mask_ratio, "span": span, "overlap": False}
    assert_defined(jm.span_mask, (length,), definition, **options)


@pytest.mark.parametrize(("length", "mask_ratio", "span"), [slow(100, 0.65, 10), slow(49, 0.3, 3)])
def test_masks_are_those_of_the_loop(length, mask_ratio, span):
    def spans(rng):
        """wav2vec 2.0: distinct starts, here also the last one that fits."""
        count = max(int(mask_ratio * length / span + rng.random()), 1)
        mask = np.zeros(length, bool)
        for start in rng.choice(length - span + 1, count, replace=False):
            mask[start : start + span] = True
        return mask

    rng = np.random.default_rng(55)
    ours = sampled(jm.span_mask, (length,), keys=2000, mask_ratio=mask_ratio, span=span)
    theirs = np.array([spans(rng) for _ in ours])
    assert_same_distribution(ours, theirs)
    assert_same_mean(ours.sum(1), theirs.sum(1))
    assert ours[:, -1].any()


@pytest.mark.slow
def test_a_decimal_ratio_is_what_its_digits_say(monkeypatch):
    """The counts of spans are whole, and floats of them are below or above.

    That shows for the extreme words alone, so here every word of a key is the key's first one.
    """
    cases = [(200, 0.29, 2), (100, 0.57, 1), (300, 0.07, 3)]
    exact = [Fraction(str(ratio)) * length / span for length, ratio, span in cases]
    assert all(spans.denominator == 1 for spans in exact)
    floats = [ratio * length / span for length, ratio, span in cases]
    assert {spans < e for spans, e in zip(floats, exact, strict=True)} == {True, False}

    def first_word(key, shape, dtype):
        return jnp.broadcast_to(key[0].astype(dtype), shape)

    @jax.jit
    @jax.vmap
    def masked(key):
        return [
            jm.span_mask(key, (length,), mask_ratio=ratio, span=span, overlap=False).sum()
            for length, ratio, span in cases
        ]

    monkeypatch.setattr(jax.random, "bits", first_word)
    try:
        got = masked(jnp.array([[0, 0], [2**31, 0], [2**32 - 1, 0]], jnp.uint32))
    finally:
        jax.clear_caches()
    for (_, _, span), spans, count in zip(cases, exact, got, strict=True):
        assert count.tolist() == [spans * span] * 3


def test_spans_of_one_token_that_are_few():
    options = {"mask_ratio": 0.004, "span": 1, "overlap": False}
    assert counts(sampled(jm.span_mask, (1000,), keys=50, **options)) == {4}  # 0.004 * 1000


@pytest.mark.slow
def test_the_count_of_spans_is_one_of_two_and_right_in_the_mean():
    options = {"mask_ratio": 0.37, "span": 5, "overlap": False}
    spans = sampled(jm.span_mask, (50,), keys=2000, **options).sum(1) / 5
    assert set(spans.tolist()) == {3, 4}  # 0.37 * 50 / 5 = 3.7
    assert stats.binomtest(int((spans == 4).sum()), 2000, 0.7).pvalue > CHANCE


def of_each_length(preset, lengths, keys, **options):
    """Samples a mask for each key of each length, in one program: bool[lengths, keys, longest]."""
    grid = (max(lengths),)
    draw = jax.vmap(lambda key, length: preset(key, grid, within=(length,), **options), (0, None))
    return np.asarray(jax.jit(jax.vmap(draw, (None, 0)))(keys, np.array(lengths)))


@pytest.mark.parametrize("preset", [PRESETS["wav2vec2"], slow(PRESETS["hubert"])], ids=PRESETS)
def test_every_length_above_a_span_has_masked_tokens_and_others(preset):
    lengths = range(11, 401)
    keys, words = keys_and_words(7, 4, 450)
    span, ratio = preset.keywords["span"], preset.keywords["mask_ratio"]
    overlapping = of_each_length(preset, lengths, keys)
    separate = of_each_length(preset, lengths, keys, overlap=False)
    for masks in (overlapping, separate):
        count = masks.sum(2)
        assert np.all(count >= 1)
        assert np.all(count < np.array(lengths)[:, None])
        assert np.all(count <= np.array([most_spans(n, span) * span for n in lengths])[:, None])
    assert np.all(separate.sum(2) % span == 0)
    assert all(np.all(runs(mask) % span == 0) for mask in separate[:, 0])
    for i, length in enumerate(lengths):
        key = i % len(keys)
        for masks, definition in ((overlapping, span_mask), (separate, spans_apart)):
            expected = definition(words[key], (length,), ratio, span)
            np.testing.assert_array_equal(masks[i, key, :length], expected, f"length {length}")


@pytest.mark.parametrize("length", [11, 12, 20, 21, 31, 38, 400])
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_no_length_above_a_span_is_refused(preset, length):
    mask = jax.eval_shape(lambda key: preset(key, (length,)), jax.random.key(0))
    assert mask.shape == (length,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "ratio", "span", "count"),
    [(9, 0.67, 2, 3), (12, 0.5, 3, 2), (7, 0.43, 1, 3), (11, 0.99, 2, 5)],
)
def test_every_placement_is_equally_likely(length, ratio, span, count):
    """Of masks with one count of spans, where the ratio allows two."""
    options = {"mask_ratio": ratio, "span": span, "overlap": False}
    masks = sampled(jm.span_mask, (length,), keys=60_000, **options)
    masks = masks[masks.sum(1) == count * span]
    placements = math.comb(length - count * (span - 1), count)
    # Adjacent spans can be one run: the mask tells where each is, because all are equally long.
    _, frequency = np.unique(masks @ (1 << np.arange(length)), return_counts=True)
    assert len(frequency) == placements
    assert stats.chisquare(frequency).pvalue > CHANCE
