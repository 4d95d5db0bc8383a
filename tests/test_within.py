"""With `within` a mask is that of the sample's own grid, in the first rows and columns.

Masks of every size in a grid are sampled by one program. They are compared with the definitions in
plain NumPy on a grid of the sample's own size, and, marked slow, with the static calls.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling
import transcription
from cases import slow
from hypothesis import strategies as st
from jax import export
from modes import code_of, no_trace, x64
from transcription import box_mask, spans_apart

import jepa_masks_jax as jm

_BATCH = 1000
_WORDS = 600  # more than any mask below needs


def keys_and_words():
    return transcription.keys_and_words(11, _BATCH, _WORDS)


def ijepa_definition(words, size, *, min_keep=10, **options):
    """The definition, and what is promised where the targets leave fewer than `min_keep` tokens."""
    context, targets = transcription.ijepa_masks(words, size, min_keep=0, **options)
    if options.get("allow_overlap"):
        return context, targets
    free = np.sum(~targets.any(0))
    if not free:
        left = transcription.whole(words[3], targets[0].size)
        targets.reshape(len(targets), -1)[:, left] = False
        context.flat[left] = True
        return context, targets
    return transcription.ijepa_masks(words, size, min_keep=min(min_keep, free), **options)


def span_definition(words, size, *, overlap=True, mask_ratio, span):
    """The definition; a span is cut to one token less than there are."""
    if size == (1,):
        return np.zeros(size, bool)
    definition = transcription.span_mask if overlap else spans_apart
    return definition(words, size, mask_ratio, min(span, size[0] - 1))


class Case(NamedTuple):
    """A function, the static grid, its options, and its definition."""

    name: str
    function: Callable[..., Any]
    grid: tuple[int, ...]
    options: dict[str, Any]
    definition: Callable[..., Any]

    def __call__(self, key, within):
        return self.function(key, self.grid, within=within, **self.options)

    def static(self, key, size):
        return self.function(key, size, **self.options)

    def defined(self, words, size):
        return jax.tree.leaves(self.definition(words, size, **self.options))

    def __repr__(self):
        return self.name

    def __hash__(self):
        return hash((self.name, self.grid))


def kind(name, function, definition):
    """Makes cases of a function: of a name, a grid and options."""
    return lambda more, grid, **options: Case(f"{name}{more}", function, grid, options, definition)


_ijepa = kind("ijepa", jm.ijepa_masks, ijepa_definition)
_vjepa = kind("vjepa", jm.vjepa_mask, transcription.vjepa_mask)
_spans = kind("spans", jm.span_mask, span_definition)
_random = kind("random", jm.random_mask, transcription.random_mask)
_boxes = kind("boxes", jm.box_mask, box_mask)
LONG_RANGE = {"num_blocks": 2, "spatial_scale": (0.7, 0.7)}
WAV2VEC2 = dict(jm.presets.wav2vec2.keywords)
IJEPA = _ijepa("", (9, 9), num_targets=2)
VJEPA = _vjepa("", (4, 5, 6))
SPANS = _spans("-apart", (60,), overlap=False, **WAV2VEC2)
RANDOM = _random("-ratio", (9, 9), mask_ratio=0.6)
BOXES = _boxes("", (9, 7), num_boxes=3, extent=((2, 5), None))
OF_EACH_FUNCTION = [IJEPA, VJEPA, SPANS, RANDOM, BOXES]
OTHERS = [
    _ijepa("-top-up", (6, 11), num_targets=1, context_scale=(0.05, 0.3), min_keep=20),
    _vjepa("-keep", (5, 4, 4), max_temporal_keep=0.6, spatial_scale=(0.3, 0.9)),
    _ijepa("-overlap", (5, 12), allow_overlap=True, min_keep=1),
    _spans("", (60,), **WAV2VEC2),
    _random("-ratio-pair", (2, 3, 3, 4), mask_ratio=(0.2, 0.9)),
    _random("-array", (6, 7), num_masked=np.array(17, np.int8)),
    _ijepa("-sequence", (60,)),
    _vjepa("-long", (4, 5, 6), **LONG_RANGE),
    _vjepa("-image", (9, 9), num_blocks=3, spatial_scale=(0.1, 0.6), aspect_ratio=(0.3, 3.0)),
    _vjepa("-sequence", (60,), num_blocks=2),
    _random("-count", (60,), num_masked=20),
    _random("-count-pair", (4, 5, 6), num_masked=(3, 20)),
    _boxes("-centered", (4, 5, 6), num_boxes=2, extent=(2, (1, 9), 3), placement="centered"),
    _boxes("-spans", (60,), num_boxes=4, extent=((1, 30),)),
]
CASES = [*OF_EACH_FUNCTION, *map(slow, OTHERS)]
LARGE = [
    _ijepa("", (24, 30)),
    _vjepa("", (4, 12, 15), **LONG_RANGE),
    _spans("", (400,), mask_ratio=0.8, span=10),
    _random("", (12, 30), mask_ratio=(0.3, 0.8)),
]


@functools.cache
def program(case):
    """One program for all sizes, which fails if it is traced again."""
    traces = []

    def once(key, size):
        traces.append(case)
        assert len(traces) == 1
        return case(key, size)

    return jax.jit(jax.vmap(once))


def sample(case, keys, sizes):
    masks = program(case)(keys, np.array(sizes, np.int32))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(masks)]


def sizes_in(grid):
    return list(itertools.product(*(range(1, side + 1) for side in grid)))


def padded(mask, grid):
    """A mask, or several, of a smaller grid, False outside."""
    more = [0] * (mask.ndim - len(grid)) + list(grid)
    return np.pad(mask, [(0, max(n - m, 0)) for m, n in zip(mask.shape, more, strict=True)])


def assert_defined(case, masks, words, sizes):
    for i, size in enumerate(sizes):
        for got, expected in zip(masks, case.defined(words[i], size), strict=True):
            np.testing.assert_array_equal(
                got[i], padded(expected, case.grid), f"size {size}, key {i}"
            )


def assert_sides_hold(case, masks, sizes):
    """The sides that a size promises: never an empty context, disjoint, as many as can be."""
    first, *rest = (mask.reshape(len(mask), -1, math.prod(case.grid)) for mask in masks)
    first = first[:, 0]
    tokens = np.array([math.prod(size) for size in sizes])
    inside = np.array([padded(np.ones(size, bool), case.grid).reshape(-1) for size in sizes])
    for mask in masks:
        assert not np.any(mask.reshape(len(mask), -1, math.prod(case.grid)) & ~inside[:, None])
    if not rest:
        count = first.sum(1)
        assert np.all(count < tokens)
        assert np.all(count >= np.minimum(tokens - 1, 1))
        return
    context, (targets,) = first, rest
    assert np.all(context.any(1))
    may_be_empty = tokens < (1 if case.options.get("allow_overlap") else 5)
    assert np.all(targets.any(2).all(1) | may_be_empty)
    assert np.all(context[tokens == 1].sum(1) == 1)
    if not case.options.get("allow_overlap"):
        hidden = targets.any(1)
        assert not np.any(context & hidden)
        min_keep = case.options.get("min_keep", 10)
        assert np.all(context.sum(1) >= np.minimum(min_keep, tokens - hidden.sum(1)))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_size_gives_the_mask_of_its_own_grid(case):
    keys, words = keys_and_words()
    sizes = sizes_in(case.grid)
    batch = [sizes[i % len(sizes)] for i in range(_BATCH)]
    masks = sample(case, keys, batch)
    checked = 2 * len(sizes)
    assert_defined(case, [mask[:checked] for mask in masks], words, batch[:checked])
    assert_sides_hold(case, masks, batch)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_masks_of_few_tokens_have_their_sides(case):
    keys, _ = keys_and_words()
    sizes = [size for size in sizes_in(case.grid) if math.prod(size) <= 5]
    batch = [sizes[i % len(sizes)] for i in range(_BATCH)]
    assert_sides_hold(case, sample(case, keys, batch), batch)


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_EACH_FUNCTION + OTHERS, ids=repr)
def test_a_thousand_masks_of_every_size_have_their_sides(case):
    keys, words = keys_and_words()
    for size in sizes_in(case.grid):
        batch = [size] * _BATCH
        masks = sample(case, keys, batch)
        assert_sides_hold(case, masks, batch)
        assert_defined(case, [mask[:20] for mask in masks], words, batch[:20])


def accepts(case, size):
    try:
        jax.eval_shape(lambda key: case.static(key, size), jax.random.key(0))
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_EACH_FUNCTION + OTHERS, ids=repr)
def test_every_size_gives_the_masks_of_the_static_call(case):
    """Of every size that the static call accepts, several sizes a program."""
    keys, _ = keys_and_words()
    keys = keys[:5]
    sizes = [size for size in sizes_in(case.grid) if accepts(case, size)]
    assert len(sizes) >= 20
    for first in range(0, len(sizes), 20):
        some = sizes[first : first + 20]

        def draw(keys, some=some):
            return [jax.vmap(functools.partial(case.static, size=size))(keys) for size in some]

        expected = jax.tree.map(np.asarray, jax.jit(draw)(keys))
        for size, masks in zip(some, expected, strict=True):
            rest = _BATCH - len(keys)
            many = jnp.concatenate([keys, keys_and_words()[0][:rest]])
            got = sample(case, many, [size] * _BATCH)
            for one, other in zip(got, jax.tree.leaves(masks), strict=True):
                for i in range(len(keys)):
                    np.testing.assert_array_equal(one[i], padded(other[i], case.grid), str(size))


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=repr)
@hypothesis.settings(max_examples=150)
@hypothesis.given(data=st.data())
def test_many_sizes_in_larger_grids(case, data):
    """Four consecutive keys, each with a size of its own."""
    keys, words = keys_and_words()
    first = data.draw(st.integers(0, _BATCH - 4), "first key")
    side = [st.integers(1, length) for length in case.grid]
    sizes = data.draw(st.lists(st.tuples(*side), min_size=4, max_size=4), "sizes")
    masks = sample(case, keys[first : first + 4], sizes)
    assert_defined(case, masks, words[first : first + 4], sizes)
    assert_sides_hold(case, masks, sizes)


@pytest.mark.parametrize("case", [IJEPA, RANDOM, *map(slow, [VJEPA, SPANS, BOXES])], ids=repr)
def test_eager_calls_with_tuples_and_lists_are_traced_once(case):
    keys, words = keys_and_words()
    sizes = [case.grid, tuple(side - 1 for side in case.grid), (2,) * len(case.grid)]
    masks = [case(keys[0], sizes[0])]
    one = list(keys[1:3])
    with no_trace():
        masks += [case(one[0], list(sizes[1])), case(one[1], np.array(sizes[2], np.int32))]
    masks = [np.stack(leaves) for leaves in zip(*map(jax.tree.leaves, masks), strict=True)]
    assert_defined(case, masks, words, sizes)


RANDOM_AMONG = Case(
    "random-among",
    functools.partial(jm.random_mask, among=np.indices((5, 7)).sum(0) % 3 > 0),
    (5, 7),
    {"num_masked": (1, 12)},
    lambda words, size, num_masked: transcription.among(
        words, np.indices(size).sum(0) % 3 > 0, num_masked
    ),
)
TRANSFORMED = [*OF_EACH_FUNCTION, RANDOM_AMONG]
_SAMPLES = 16


def sampled(keys, sizes, cases=TRANSFORMED):
    """Every function's masks of sizes that are cut to each one's grid by clamping."""
    return {
        case.name: jax.vmap(case)(jax.random.clone(keys), sizes[:, -len(case.grid) :])
        for case in cases
    }


def some_sizes():
    return np.random.default_rng(0).integers(1, 9, (_SAMPLES, 3), np.int32)


def assert_all_defined(masks, cases=TRANSFORMED):
    _, words = keys_and_words()
    for case in cases:
        sizes = np.minimum(some_sizes()[:, -len(case.grid) :], case.grid).tolist()
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(masks[case.name])]
        assert_defined(case, leaves, words, [tuple(size) for size in sizes])


def test_the_code_of_accelerators():
    with code_of("tpu") as choices:
        draw = jax.jit(functools.partial(sampled, cases=[RANDOM_AMONG]))
        masks = draw(keys_and_words()[0][:_SAMPLES], some_sizes())
    assert choices
    assert_all_defined(masks, [RANDOM_AMONG])


@pytest.mark.slow
def test_the_code_of_accelerators_exported_for_three_platforms():
    args = keys_and_words()[0][:_SAMPLES], some_sizes()
    with code_of("tpu") as choices:
        names = [case.name for case in TRANSFORMED]
        draw = jax.jit(lambda *args: [tuple(jax.tree.leaves(sampled(*args)[n])) for n in names])
        exported = export.export(draw, platforms=("cpu", "cuda", "tpu"))(*args)
        masks = jax.jit(export.deserialize(exported.serialize()).call)(*args)
    assert choices
    assert_all_defined(dict(zip(names, masks, strict=True)))


_INSIDE = [[True, True, False, False], [True, True, False, False], [False] * 4]


def test_inside_is_the_first_rows_and_columns():
    assert jm.inside((3, 4), (2, 2)).tolist() == _INSIDE
    for grid in [(7,), (3, 4), (2, 3, 4), (2, 2, 3, 2)]:
        sizes = np.array(sizes_in(grid))
        got = jax.jit(jax.vmap(functools.partial(jm.inside, grid)))(sizes)
        for size, mask in zip(sizes, got, strict=True):
            np.testing.assert_array_equal(mask, padded(np.ones(size, bool), grid))


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64"])
@pytest.mark.parametrize("enable_x64", [False, True], ids=["32", "64"])
def test_sides_of_every_type(dtype, enable_x64):
    with x64(enable_x64):
        size = np.array([2, 2], dtype)
        assert jm.inside((3, 4), size).tolist() == _INSIDE
        assert jm.inside((3, 4), jnp.asarray(size)).tolist() == _INSIDE
        assert jm.inside((3, 4), (size[0], size[1])).tolist() == _INSIDE
        assert jm.inside((3, 4), [2, jnp.asarray(size[1])]).tolist() == _INSIDE


def test_sides_are_clamped_whatever_their_width():
    def count(within):
        return jm.inside((3, 4), within).sum(0).tolist()

    assert count((0, 2)) == count((-1, 2)) == [1, 1, 0, 0]
    assert count((2**40, 2)) == count(np.array([2**40, 2])) == [3, 3, 0, 0]
    assert count(np.array([-7, 5])) == [1, 1, 1, 1]
    assert count(np.array([-128, 127], np.int8)) == [1, 1, 1, 1]
    assert count(np.array([2**32 - 1, 2**31], np.uint32)) == [3, 3, 3, 3]
    assert count((jnp.int32(-(2**31)), jnp.int32(2**31 - 1))) == [1, 1, 1, 1]
    assert count((jnp.uint32(2**32 - 1), 2)) == [3, 3, 0, 0]  # -1 as int32
    assert count((-(2**40), 2)) == [1, 1, 0, 0]
    for four_bits in (np.array([2, 3], jnp.int4), jnp.array([2, 3], jnp.int4)):
        assert count(four_bits) == [2, 2, 2, 0]
    assert count((np.array(2, jnp.int4), jnp.array(3, jnp.uint4))) == [2, 2, 2, 0]
    with x64(True):
        assert count(np.array([2**63 - 1, -(2**63)])) == [3, 0, 0, 0]
        assert count(jnp.array([2**40, 2**32])) == [3, 3, 3, 3]
        assert count(np.array([2**63, 2**64 - 1], np.uint64)) == [3, 3, 3, 3]


def test_a_tuple_may_hold_a_traced_side():
    keys, words = keys_and_words()
    lengths = np.array([60, 33, 5, 1])

    @jax.jit
    @jax.vmap
    def draw(key, length):
        target = SPANS(key, (length,))
        return jm.inside((60,), (length,)) & ~target, target

    context, target = draw(keys[:4], lengths)
    assert_defined(SPANS, [np.asarray(target)], words, [(length,) for length in lengths])
    assert (context | target).sum(1).tolist() == lengths.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(4, 7), (6, 2)])
def test_within_and_among_are_the_static_grid_with_the_first_of_among(height, width):
    among = np.random.default_rng(1).random((6, 7)) < 0.5
    own = among[:height, :width]
    within = {"among": among, "within": (height, width)}
    got = sampling.sampled(jm.random_mask, (6, 7), keys=50, mask_ratio=(0.2, 0.8), **within)
    expected = sampling.sampled(
        jm.random_mask, (height, width), keys=50, mask_ratio=(0.2, 0.8), among=own
    )
    np.testing.assert_array_equal(got, padded(expected, (6, 7)))


@pytest.mark.parametrize("case", OF_EACH_FUNCTION, ids=repr)
@pytest.mark.parametrize(
    ("within", "error", "message"),
    [
        (lambda rank: (3,) * (rank + 1), ValueError, r"within must be \(int{},?\), the real sides"),
        (
            lambda rank: np.array([[3] * rank] * 2),
            ValueError,
            r"within must be \(int{},?\).*jax.vmap",
        ),
        (lambda rank: (np.array([3, 4]),) * rank, ValueError, r"within\[0\].*jax.vmap"),
        (lambda rank: (3.0,) * rank, TypeError, r"within\[0\] must be an integer"),
        (lambda rank: (True,) * rank, TypeError, r"within\[0\] must be an integer"),
        (lambda rank: np.array([3.0] * rank), TypeError, r"within must be \(int{},?\).*float"),
        (lambda rank: np.array([True] * rank), TypeError, r"within must be \(int{},?\).*bool"),
        (lambda rank: 3, TypeError, r"within must be \(int{},?\).*got 3"),
        (lambda rank: "3", TypeError, r"within must be \(int{},?\).*got '3'"),
    ],
    ids=["rank", "batch", "batch-of-sides", "float", "bool", "floats", "bools", "int", "str"],
)
def test_sides_that_are_refused(case, within, error, message):
    rank = len(case.grid)
    with pytest.raises(error, match=message.format(", int" * (rank - 1))):
        case(jax.random.key(0), within(rank))
    with pytest.raises(error, match=message.format(", int" * (rank - 1))):
        jm.inside(case.grid, within(rank))
