"""How tests sample masks of many keys, and what they ask of all of them.

The keys are fixed: over random keys a comparison of chances would fail with `CHANCE`.
"""

import functools
import itertools
import math

import jax
import numpy as np
import transcription
from scipy import stats

CHANCE = 1e-6


def sampled(function, grid, *, keys=100, **options):
    """The masks of all keys, or of so many, in one program. `grid` may be any second argument."""
    if isinstance(keys, int):
        keys = jax.random.split(jax.random.key(0), keys)
    function = functools.partial(function, **options)
    masks = jax.jit(jax.vmap(lambda key: function(key, grid)))(keys)
    return jax.tree.map(np.asarray, masks)


def random_masks(seed, grid, count):
    """Masks of all densities."""
    rng = np.random.default_rng(seed)
    density = rng.random((count, *[1] * len(grid)))
    return rng.random((count, *grid)) < density


def assert_defined(function, grid, definition=None, **options):
    """Asserts that a hundred keys have the masks of their definition, and returns them."""
    keys, words = transcription.keys_and_words(20)
    definition = definition or getattr(transcription, function.__name__)
    masks = sampled(function, grid, keys=keys, **options)
    for i, row in enumerate(words):
        expected = jax.tree.leaves(definition(row, grid, **options))
        for got, wanted in zip(jax.tree.leaves(masks), expected, strict=True):
            np.testing.assert_array_equal(got[i], wanted, err_msg=f"key {i}")
    return masks


def counts(masks):
    """The set of the numbers of tokens that the masks have."""
    return set(masks.reshape(len(masks), -1).sum(1).tolist())


def block_size(masks):
    """The extent along each axis of masks that are one block each, all of one size."""
    sizes = set()
    for mask in masks:
        corners = [(at.min(), at.max() + 1) for at in np.nonzero(mask)]
        assert mask[tuple(slice(start, stop) for start, stop in corners)].all()
        sizes.add(tuple(int(stop - start) for start, stop in corners))
    (size,) = sizes
    return size


def assert_uniform(values, num_values):
    """Chi-square of whole numbers against equal chances for all in [0, num_values)."""
    frequency = np.bincount(values, minlength=num_values)
    assert len(frequency) == num_values
    assert stats.chisquare(frequency).pvalue > CHANCE


def corners(masks, size):
    """Numbers the corners of masks that are one block of a size, among all positions that fit."""
    batch, *grid = masks.shape
    assert counts(masks) == {math.prod(size)}
    first = np.unravel_index(masks.reshape(batch, -1).argmax(1), grid)
    places = [side - part + 1 for side, part in zip(grid, size, strict=True)]
    return np.ravel_multi_index(first, places), math.prod(places)


def assert_corner_is_uniform(function, grid, size, **options):
    """Over all positions that fit, of masks that are one block of the size."""
    masks = sampled(function, grid, keys=20_000, **options)
    assert_uniform(*corners(masks, size))
    for axis in range(len(grid)):
        assert masks.take(-1, axis + 1).any()


def assert_token_left_is_uniform(function, grid, num_tokens=None, **options):
    """Over the first tokens, or all, of masks that would cover the whole grid."""
    context = ~sampled(function, grid, keys=10_000, **options).reshape(10_000, -1)
    assert counts(context) == {1}
    assert_uniform(context.argmax(1), num_tokens or math.prod(grid))


def assert_every_subset_is_equally_likely(masks, among=None):
    """Of masks of one count: all subsets of that size of the tokens `among`."""
    masks = masks.reshape(len(masks), -1)
    among = np.ones(masks.shape[1], bool) if among is None else among.reshape(-1)
    assert not masks[:, ~among].any()
    (size,) = counts(masks)
    numbers = 1 << np.arange(among.sum())
    subsets = np.array(list(itertools.combinations(numbers.tolist(), size))).sum(1)
    found, frequency = np.unique(masks[:, among] @ numbers, return_counts=True)
    assert found.tolist() == sorted(subsets.tolist())
    assert stats.chisquare(frequency).pvalue > CHANCE


def runs(mask):
    """The lengths of the runs of masked tokens of a sequence."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(int), 1)))
    return edges[1::2] - edges[::2]


def assert_same_mean(ours, theirs):
    """z-tests of the means over masks, all at once: arrays with one row for each mask."""
    ours, theirs = (x.reshape(len(x), -1) for x in (ours, theirs))
    difference = ours.mean(0) - theirs.mean(0)
    deviation = np.sqrt((ours.var(0) + theirs.var(0)) / len(ours))
    worst = stats.norm.isf(CHANCE / 4 / difference.size)
    assert (np.abs(difference) <= worst * deviation).all()


def _differing_neighbors(masks):
    return sum(
        np.diff(masks.astype(np.int8), axis=axis).astype(bool).reshape(len(masks), -1).sum(1)
        for axis in range(1, masks.ndim)
    )


def assert_same_distribution(ours, theirs):
    """Of every token, and of how many neighbors differ."""
    assert_same_mean(ours, theirs)
    assert_same_mean(_differing_neighbors(ours), _differing_neighbors(theirs))
