"""Blocks, inverse blocks and spans are distributed as the loops of their authors draw them.

The loops below follow the authors' definitions and draw from NumPy's generator. Over random seeds
a comparison would fail with `CHANCE`. Counts are exact for every number and every option.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import jepa_masks_jax as jm

pytestmark = pytest.mark.slow

CHANCE = 1e-6
MASKS = 2000


@functools.cache
def drawn(function, grid, **options):
    keys = jax.random.split(jax.random.key(50), MASKS)
    return np.asarray(jax.jit(jax.vmap(lambda key: function(key, grid, **options)))(keys))


def rectangle(rng, grid, size):
    mask = np.zeros(grid, bool)
    top, left = (rng.integers(side - part + 1) for side, part in zip(grid, size, strict=True))
    mask[top : top + size[0], left : left + size[1]] = True
    return mask


def blocks_until(rng, grid, num_masked, min_block):
    """BEiT: blocks until the number is reached or ten in a row were refused."""
    mask, refused = np.zeros(grid, bool), 0
    while mask.sum() < num_masked and refused < 10:
        rest = num_masked - mask.sum()
        area = min_block + rng.random() * (rest - min_block)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        size = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        refused += 1
        if size[0] < grid[0] and size[1] < grid[1]:
            new = rectangle(rng, grid, size) & ~mask
            if 0 < new.sum() <= rest:
                mask, refused = mask | new, 0
    return mask


def completed(rng, mask, num_masked):
    """DINOv3: the missing tokens are random."""
    mask = mask.copy()
    free = np.flatnonzero(~mask)
    mask.flat[rng.choice(free, num_masked - mask.sum(), replace=False)] = True
    return mask


def inverse_block(rng, grid, num_masked, roll):
    """CAPI: the first tokens of a block are visible, then the grid is shifted."""
    (height, width), visible = grid, math.prod(grid) - num_masked
    low, high = max(0.5, visible / width**2), min(2.0, height**2 / visible)
    aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
    size = math.ceil(math.sqrt(visible * aspect)), math.ceil(math.sqrt(visible / aspect))
    mask = rectangle(rng, grid, size)
    mask.flat[np.flatnonzero(mask)[visible:]] = False
    return ~np.roll(mask, rng.integers(grid) if roll else 0, (0, 1))


def spans(rng, grid, mask_ratio, span):
    """wav2vec 2.0: distinct starts, here also the last one that fits."""
    (length,) = grid
    count = max(int(mask_ratio * length / span + rng.random()), 1)
    mask = np.zeros(length, bool)
    for start in rng.choice(length - span + 1, count, replace=False):
        mask[start : start + span] = True
    return mask


def differing_neighbors(masks):
    return sum(
        np.diff(masks.astype(np.int8), axis=axis).astype(bool).reshape(len(masks), -1).sum(1)
        for axis in range(1, masks.ndim)
    )


def assert_same_mean(ours, theirs):
    """z-tests of the means over masks, all at once: arrays with one row for each mask."""
    ours, theirs = (x.reshape(len(x), -1) for x in (ours, theirs))
    difference = ours.mean(0) - theirs.mean(0)
    deviation = np.sqrt((ours.var(0) + theirs.var(0)) / len(ours))
    worst = stats.norm.isf(CHANCE / 4 / difference.size)
    assert (np.abs(difference) <= worst * deviation).all()


def assert_same_distribution(ours, theirs):
    assert_same_mean(ours, theirs)
    assert_same_mean(differing_neighbors(ours), differing_neighbors(theirs))


BLOCKWISE = [((14, 14), 75, 16), ((16, 16), 128, 4), ((12, 20), 60, 4)]


@functools.cache
def reference_blocks(grid, num_masked, min_block):
    rng = np.random.default_rng(51)
    return np.array([blocks_until(rng, grid, num_masked, min_block) for _ in range(MASKS)])


@pytest.mark.parametrize(("grid", "num_masked", "min_block"), BLOCKWISE)
def test_blockwise_masks_are_those_of_the_loop(grid, num_masked, min_block):
    rng = np.random.default_rng(52)
    blocks = reference_blocks(grid, num_masked, min_block)
    theirs = np.array([completed(rng, mask, num_masked) for mask in blocks])
    ours = drawn(jm.blockwise_mask, grid, num_masked=num_masked, min_block=min_block)
    assert (ours.sum((1, 2)) == num_masked).all()
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize(("grid", "num_masked", "min_block"), BLOCKWISE)
def test_as_many_tokens_are_left_to_random_completion_as_in_the_loop(grid, num_masked, min_block):
    rng = np.random.default_rng(53)
    words = rng.integers(0, 2**32, (MASKS, 24, 4), np.uint32)
    blocks = [transcription.try_blocks(w, grid, num_masked, min_block) for w in words]
    ours = num_masked - np.sum(blocks, axis=(1, 2))
    theirs = num_masked - reference_blocks(grid, num_masked, min_block).sum((1, 2))
    assert_same_mean(ours, theirs)
    assert_same_mean(ours > 0, theirs > 0)


@pytest.mark.parametrize("roll", [True, False])
@pytest.mark.parametrize(("grid", "num_masked"), [((14, 14), 127), ((12, 20), 156)])
def test_inverse_block_masks_are_those_of_the_loop(grid, num_masked, roll):
    rng = np.random.default_rng(54)
    theirs = np.array([inverse_block(rng, grid, num_masked, roll) for _ in range(MASKS)])
    ours = drawn(jm.inverse_block_mask, grid, num_masked=num_masked, roll=roll)
    assert (ours.sum((1, 2)) == num_masked).all()
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize(("length", "mask_ratio", "span"), [(100, 0.65, 10), (49, 0.3, 3)])
def test_span_masks_are_those_of_the_loop(length, mask_ratio, span):
    rng = np.random.default_rng(55)
    theirs = np.array([spans(rng, (length,), mask_ratio, span) for _ in range(MASKS)])
    ours = drawn(jm.span_mask, (length,), mask_ratio=mask_ratio, span=span)
    assert_same_distribution(ours, theirs)
    assert_same_mean(ours.sum(1), theirs.sum(1))
    assert ours[:, -1].any()


@settings(max_examples=3)
@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.integers(1, 30),
    st.none() | st.integers(1, 40),
    st.sampled_from([(0.3, 1 / 0.3), (1.0, 1.0), (0.05, 0.2), (4.0, 30.0)]),
)
def test_blockwise_counts_are_exact_for_every_number(grid, min_block, max_block, aspect_ratio):
    tokens = math.prod(grid)
    min_block = min(min_block, tokens)
    options = {
        "min_block": min_block,
        "max_block": max_block and min(max(max_block, min_block), tokens),
        "aspect_ratio": aspect_ratio,
    }
    draw = jax.vmap(lambda key, n: jm.blockwise_mask(key, grid, num_masked=n, **options))
    keys = jax.random.split(jax.random.key(0), tokens + 2)
    masks = jax.jit(draw)(keys, jnp.arange(-1, tokens + 1))
    expected = np.clip(np.arange(-1, tokens + 1), 1, tokens - 1)
    np.testing.assert_array_equal(masks.sum((1, 2)), expected)


@settings(max_examples=6)
@given(
    st.tuples(st.integers(1, 9), st.integers(2, 9)),
    st.floats(0.01, 0.99),
    st.sampled_from([(0.5, 2.0), (1.0, 1.0), (0.05, 0.2), (0.01, 100.0)]),
    st.booleans(),
)
def test_inverse_blocks_are_exact_or_refused(grid, mask_ratio, aspect_ratio, roll):
    tokens = math.prod(grid)
    draw = functools.partial(
        jm.inverse_block_mask,
        grid=grid,
        mask_ratio=mask_ratio,
        aspect_ratio=aspect_ratio,
        roll=roll,
    )
    count = min(max(round(mask_ratio * tokens), 1), tokens - 1)
    low, high = aspect_ratio
    visible = tokens - count
    if max(low, visible / grid[1] ** 2) > min(high, grid[0] ** 2 / visible):
        with pytest.raises(ValueError, match="aspect_ratio must allow a block"):
            draw(jax.random.key(0))
    else:
        masks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 20))
        assert (masks.sum((1, 2)) == count).all()


def centered_boxes(rng, grid, p, adjust, side):
    """data2vec 2.0: visible squares around random tokens, cut off at the edges; then the number."""
    tokens = math.prod(grid)
    visible = np.zeros(grid, bool)
    for center in rng.integers(tokens, size=int(tokens * (1 - p + adjust) / side**2)):
        top, left = np.array(divmod(center, grid[1])) - side // 2
        visible[max(top, 0) : top + side, max(left, 0) : left + side] = True
    count = int(tokens * (1 - p))
    excess = visible.sum() - count
    chosen = rng.choice(np.flatnonzero(visible == (excess > 0)), abs(excess), replace=False)
    visible.flat[chosen] = excess < 0
    return ~visible


@pytest.mark.parametrize(
    ("grid", "p", "adjust", "side"), [((14, 14), 0.8, 0.07, 3), ((64, 8), 0.8, 0.07, 5)]
)
def test_centered_boxes_and_clip_count_are_the_masks_of_data2vec_and_eat(grid, p, adjust, side):
    tokens = math.prod(grid)
    num_boxes = int(tokens * (1 - p + adjust) / side**2)
    visible = int(tokens * (1 - p))

    def draw(key, grid):
        box_key, clip_key = jax.random.split(key)
        context = jm.box_mask(
            box_key, grid, num_boxes=num_boxes, extent=(side, side), placement="centered"
        )
        return ~jm.clip_count(clip_key, context, minimum=visible, maximum=visible)

    rng = np.random.default_rng(56)
    theirs = np.array([centered_boxes(rng, grid, p, adjust, side) for _ in range(MASKS)])
    ours = drawn(draw, grid)
    assert ((~ours).sum((1, 2)) == visible).all()
    assert_same_distribution(ours, theirs)
