"""Random spans: the definition, the law by enumeration, T5's counts, and what may be traced."""

import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from cases import first_fast
from sampling import CHANCE, counts, sampled
from scipy import stats
from transcription import random_span_mask

import jepa_masks_jax as jm
from jepa_masks_jax._strategies.random_span import _plan_spans

LONGEST = 60
ENDS = ("free", "t5")


def padded(mask):
    return np.pad(mask, (0, LONGEST - len(mask)))


def keys_and_words():
    return transcription.keys_and_words(17, 300, 2 * LONGEST)


def runs(masks):
    """How many spans each mask has."""
    before = np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    return (masks & ~before).sum(1)


SETTINGS = {
    "t5": {"mask_ratio": 0.15, "mean_span": 3, "ends": "t5"},
    "decimal": {"mask_ratio": (0.2, 0.9), "mean_span": 2.4},
    "f5-tts": {"mask_ratio": (0.7, 0.999), "num_spans": 1},
    "counts": {"num_masked": (5, 40), "num_spans": 7, "ends": "t5"},
}


@functools.cache
def of_every_length(name):
    """One program for all lengths, several keys each."""
    keys, _ = keys_and_words()
    lengths = np.resize(np.arange(1, LONGEST + 1), len(keys))
    draw = lambda key, length: jm.random_span_mask(  # noqa: E731
        key, (LONGEST,), within=(length,), **SETTINGS[name]
    )
    return lengths, np.asarray(jax.jit(jax.vmap(draw))(keys, lengths))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_length_has_the_mask_of_the_definition(name):
    lengths, masks = of_every_length(name)
    for words, length, mask in zip(keys_and_words()[1], lengths.tolist(), masks, strict=True):
        expected = random_span_mask(words, length, **SETTINGS[name])
        np.testing.assert_array_equal(mask, padded(expected), f"length {length}")


def assert_static_calls_give_the_same(name, lengths):
    keys, _ = keys_and_words()
    of_length, masks = of_every_length(name)
    rows = {length: np.flatnonzero(of_length == length) for length in lengths}

    @jax.jit
    def static(keys):
        draw = lambda length: lambda key: jm.random_span_mask(key, (length,), **SETTINGS[name])  # noqa: E731
        return {length: jax.vmap(draw(length))(keys[rows[length]]) for length in lengths}

    for length, expected in static(keys).items():
        assert len(expected) == 5
        np.testing.assert_array_equal(masks[rows[length], :length], expected, str(length))
        assert not masks[rows[length], length:].any()


def test_static_calls_of_some_lengths_give_the_same_masks():
    assert_static_calls_give_the_same("t5", [2, 3, 31, 60])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "decimal"])
def test_static_calls_of_every_length_give_the_same_masks(name):
    for first in range(2, LONGEST + 1, 10):
        lengths = range(first, min(first + 10, LONGEST + 1))
        assert_static_calls_give_the_same(name, lengths)


@functools.cache
def traced(ends):
    """Takes the count, the number of spans and the length, and fails if it is traced again."""
    traces = []

    def draw(key, n, s, length):
        traces.append(ends)
        assert len(traces) == 1
        options = {"num_masked": n, "num_spans": s, "within": (length,)}
        return jm.random_span_mask(key, (LONGEST,), ends=ends, **options)

    return jax.jit(jax.vmap(draw))


@pytest.mark.parametrize("ends", ENDS)
def test_the_count_the_number_of_spans_and_the_length_are_traced_at_once_and_clamped(ends):
    keys, words = keys_and_words()
    rng = np.random.default_rng(5)
    for longest in (6, LONGEST):
        n, s = rng.integers(-2, longest + 3, (2, len(keys)), np.int32)
        lengths = rng.integers(1, longest + 1, len(keys), np.int32)
        masks = np.asarray(traced(ends)(keys, n, s, lengths))
        for i, length in enumerate(lengths.tolist()):
            options = {"num_masked": int(n[i]), "num_spans": int(s[i]), "ends": ends}
            expected = padded(random_span_mask(words[i], length, **options))
            np.testing.assert_array_equal(masks[i], expected, f"{options}, length {length}")


def legal(length, n, s, ends):
    """Every mask of so many tokens in so many spans."""
    masks = np.array(list(itertools.product([False, True], repeat=length)))
    masks = masks[(masks.sum(1) == n) & (runs(masks) == s)]
    return masks if ends == "free" else masks[~masks[:, 0] & masks[:, -1]]


def masks_of_one_case(length, n, s, ends):
    """Many masks of one case, by the program that takes every case."""
    keys = jax.random.split(jax.random.key(length * n + s), 12_000).reshape(-1, 300)
    case = [np.full(300, number, np.int32) for number in (n, s, length)]
    masks = np.concatenate([np.asarray(traced(ends)(some, *case)) for some in keys])
    assert not masks[:, length:].any()
    return masks[:, :length]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(
    ("length", "n", "s"),
    first_fast([(9, 4, 2), (9, 6, 1), (7, 5, 1), (8, 5, 3), (10, 3, 3), (6, 1, 1), (2, 1, 1)], 3),
)
def test_every_legal_mask_is_equally_likely_and_no_other_is_sampled(length, n, s, ends):
    """Each of these wrongly fails once in a million seeds, or less."""
    masks = masks_of_one_case(length, n, s, ends)
    expected = legal(length, n, s, ends)
    gaps = math.comb(length - n + 1, s) if ends == "free" else math.comb(length - n - 1, s - 1)
    assert len(expected) == math.comb(n - 1, s - 1) * gaps
    numbers = 1 << np.arange(length)
    found, frequency = np.unique(masks @ numbers, return_counts=True)
    assert found.tolist() == sorted((expected @ numbers).tolist())
    if len(expected) > 1:
        assert stats.chisquare(frequency).pvalue > CHANCE


def t5_counts(length, noise_density=0.15, mean_noise_span_length=3.0):
    """`n` and `s` as T5's preprocessors compute them, in float32."""
    length = max(length, 2)
    num_noise_tokens = int(np.round(np.float32(length) * np.float32(noise_density)))
    num_noise_tokens = min(max(num_noise_tokens, 1), length - 1)
    spans = np.round(np.float32(num_noise_tokens) / np.float32(mean_noise_span_length))
    return num_noise_tokens, max(int(spans), 1)


T5_LENGTHS = np.array([10, 20, 30, 31, 64, 100, 128, 256, 512, 568])


@pytest.mark.parametrize(
    ("ratio", "mean"), first_fast([(0.15, 3.0), (0.5, 64.0), (0.15, 8.0), (0.5, 3.0)], 2)
)
def test_the_counts_are_those_of_t5_and_its_lengths_are_static(ratio, mean):
    draw = lambda key, length: jm.random_span_mask(  # noqa: E731
        key, (568,), mask_ratio=ratio, mean_span=mean, ends="t5", within=(length,)
    )
    keys = jax.random.split(jax.random.key(3), (20, len(T5_LENGTHS)))
    masks = np.asarray(jax.jit(jax.vmap(jax.vmap(draw), in_axes=(0, None)))(keys, T5_LENGTHS))
    for i, length in enumerate(T5_LENGTHS.tolist()):
        n, s = t5_counts(length, ratio, mean)
        own = masks[:, i, :length]
        assert set(own.sum(1).tolist()) == {n}
        assert set(runs(own).tolist()) == set(runs(~own).tolist()) == {s}
        assert not own[:, 0].any()
        assert own[:, -1].all()


def test_t5_masks_the_last_tokens_of_texts_of_up_to_30():
    lengths, masks = of_every_length("t5")
    spans, last = runs(masks), masks[np.arange(len(masks)), lengths - 1]
    is_short = (lengths > 1) & (lengths <= 30)
    assert np.all(spans[is_short] == 1)
    assert np.all(last[is_short])
    assert np.all(spans[lengths > 30] > 1)


def test_t5_masks_77_of_512_tokens_in_26_spans():
    """The masks of this length are compared with the counts above."""
    assert 512 in T5_LENGTHS
    assert t5_counts(512) == (77, 26)


@pytest.mark.parametrize("mean", [1, 1.1, 1.2, 2.4, 2.5, 3, 5.1, 64, 1.0000000000000002, 1e300])
def test_the_number_of_spans_is_rounded_half_to_even_exactly(mean):
    masked = np.arange(1, 3000)
    exact = [round(n / Fraction(str(mean))) for n in masked.tolist()]
    assert _plan_spans(masked, mean).tolist() == exact


def test_floats_would_round_some_numbers_of_spans_otherwise():
    means = [n / 10 for n in range(11, 100)]
    masked = np.arange(1, 3000)
    wrong = sum((np.rint(masked / mean) != _plan_spans(masked, mean)).sum() for mean in means)
    assert wrong > 0


@pytest.mark.parametrize("ends", ENDS)
def test_a_sample_of_one_token_has_an_empty_mask_and_one_of_two_has_one_token(ends):
    keys = keys_and_words()[0]
    one = [np.ones(300, np.int32)] * 3
    assert not traced(ends)(keys, *one).any()
    two = np.asarray(traced(ends)(keys, *one[:2], 2 * one[0]))
    assert np.all(two.sum(1) == 1)
    assert set(np.flatnonzero(two.any(0)).tolist()) == ({0, 1} if ends == "free" else {1})


KEY = jax.random.key(0)
draw_nine = functools.partial(jm.random_span_mask, KEY, (9,))


@pytest.mark.parametrize("spans", [np.int64(2), np.array(2), np.uint8(2), np.array(2, np.int8)])
def test_a_number_of_spans_of_every_type(spans):
    expected = draw_nine(num_masked=4, num_spans=2)
    np.testing.assert_array_equal(draw_nine(num_masked=4, num_spans=spans), expected)


def test_arrays_far_out_of_range_are_clamped():
    most = draw_nine(num_masked=4, num_spans=4)
    np.testing.assert_array_equal(draw_nine(num_masked=4, num_spans=np.array(2**40)), most)
    np.testing.assert_array_equal(draw_nine(num_masked=4, num_spans=jnp.uint32(2**32 - 1)), most)
    one = draw_nine(num_masked=4, num_spans=1)
    np.testing.assert_array_equal(draw_nine(num_masked=4, num_spans=np.array(-(2**40))), one)


def test_a_mean_span_of_one_makes_every_span_a_single_token():
    masks = sampled(jm.random_span_mask, (9,), keys=50, num_masked=3, mean_span=1)
    assert counts(masks) == {3}
    assert not (masks[:, 1:] & masks[:, :-1]).any()
