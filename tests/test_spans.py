"""Spans that share no token: exact counts, and every placement equally likely."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from transcription import keys_and_words, most_spans, span_mask, spans_apart

import jepa_masks_jax as jm

CHANCE = 1e-6
PRESETS = {"wav2vec2": jm.presets.wav2vec2, "hubert": jm.presets.hubert}


def sample(keys, grid, **options):
    return np.asarray(jax.jit(jax.vmap(lambda key: jm.span_mask(key, grid, **options)))(keys))


@pytest.mark.parametrize(
    ("length", "ratio", "span"),
    [
        (40, 0.55, 3),
        pytest.param(17, 0.9, 4, marks=pytest.mark.slow),
        pytest.param(9, 0.01, 8, marks=pytest.mark.slow),
    ],
)
def test_spans_apart_are_their_definition(length, ratio, span):
    keys, words = keys_and_words(7, 200, 450)
    masks = sample(keys, (length,), mask_ratio=ratio, span=span, overlap=False)
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, spans_apart(words[i], (length,), ratio, span), str(i))


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
    def counts(key):
        return [
            jm.span_mask(key, (length,), mask_ratio=ratio, span=span, overlap=False).sum()
            for length, ratio, span in cases
        ]

    monkeypatch.setattr(jax.random, "bits", first_word)
    try:
        got = counts(jnp.array([[0, 0], [2**31, 0], [2**32 - 1, 0]], jnp.uint32))
    finally:
        jax.clear_caches()
    for (_, _, span), spans, masked in zip(cases, exact, got, strict=True):
        assert masked.tolist() == [spans * span] * 3


@pytest.mark.slow
def test_the_count_of_spans_is_one_of_two_and_right_in_the_mean():
    keys = jax.random.split(jax.random.key(2), 2000)
    masks = sample(keys, (50,), mask_ratio=0.37, span=5, overlap=False)
    spans = masks.sum(1) / 5
    assert set(spans.tolist()) == {3, 4}  # 0.37 * 50 / 5 = 3.7
    assert stats.binomtest(int((spans == 4).sum()), len(keys), 0.7).pvalue > CHANCE


def runs(mask):
    """The lengths of the runs of masked tokens."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(int), 1)))
    return edges[1::2] - edges[::2]


def of_each_length(preset, lengths, keys, **options):
    """Samples a mask for each key of each length, in one program: bool[lengths, keys, longest]."""
    grid = (max(lengths),)
    draw = jax.vmap(lambda key, length: preset(key, grid, within=(length,), **options), (0, None))
    return np.asarray(jax.jit(jax.vmap(draw, (None, 0)))(keys, np.array(lengths)))


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(PRESETS["wav2vec2"], id="wav2vec2"),
        pytest.param(PRESETS["hubert"], id="hubert", marks=pytest.mark.slow),
    ],
)
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
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_no_length_up_to_400_is_refused(preset):
    for length in range(11, 401):
        test_no_length_above_a_span_is_refused(preset, length)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "ratio", "span", "count"),
    [(9, 0.67, 2, 3), (12, 0.5, 3, 2), (7, 0.43, 1, 3), (11, 0.99, 2, 5)],
)
def test_every_placement_is_equally_likely(length, ratio, span, count):
    """Of masks with one count of spans, where the ratio allows two."""
    keys = jax.random.split(jax.random.key(3), 60_000)
    masks = sample(keys, (length,), mask_ratio=ratio, span=span, overlap=False)
    masks = masks[masks.sum(1) == count * span]
    placements = math.comb(length - count * (span - 1), count)
    # Adjacent spans can be one run: the mask tells where each is, because all are equally long.
    _, frequency = np.unique(masks @ (1 << np.arange(length)), return_counts=True)
    assert len(frequency) == placements
    assert stats.chisquare(frequency).pvalue > CHANCE
