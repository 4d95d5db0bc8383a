"""Inputs that are easy to get wrong, each with its right value, worked out by hand or in NumPy.

Every one of them was wrong once, or is what a plausible slip would break.
"""

import functools
import inspect
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import user_types
from jax import export
from modes import no_trace, x64

import jepa_masks_jax as jm
from jepa_masks_jax import _sizes, _tracing

KEY = jax.random.key(0)
GRID = (3, 4)
FIRST_FIVE = np.arange(12).reshape(GRID) < 5
SIMMIM = (56, 64, 96)  # sides, of cells of 8x8


def context_with_padding(key):
    """A context topped up among what is real and no target, and what it may hold."""
    context, targets = jm.ijepa_masks(key, (8, 8), within=(3, 8), num_targets=1, min_keep=1)
    free = jm.inside((8, 8), (3, 8)) & ~targets.any(0)
    return jm.clip_count(key, context, exactly=22, among=free), free


@jax.jit
@jax.vmap
def draw(key):
    half = {"num_blocks": 1, "temporal_scale": (0.5, 0.5)}
    whole = {"spatial_scale": (1, 1), "aspect_ratio": (1, 1), "max_temporal_keep": 0.25}
    clip = functools.partial(jm.clip_count, key, FIRST_FIVE)
    centered = {"num_boxes": 1, "extent": (3,), "placement": "centered"}
    counted = jax.vmap(lambda count: jm.random_mask(key, (4,), num_masked=count))
    clipped = jax.vmap(lambda count: jm.clip_count(key, jnp.zeros(4, bool), exactly=count))
    of_4_bits = jnp.array([-2, 3, 7], jnp.int4)
    return {
        "one real token": jm.box_mask(key, (4, 4), num_boxes=1, extent=(1, 1), within=(1, 1)),
        "centered": jm.box_mask(key, (12,), within=(5,), **centered),
        "centered alone": jm.box_mask(key, (5,), **centered),
        "long box": jm.box_mask(key, (200,), num_boxes=1, extent=((140, 200),), within=(50,)),
        "vjepa": jm.vjepa_mask(key, (8, 4, 4), **half, **whole),
        "frame": jm.vjepa_mask(key, (1, 8, 8), temporal_scale=(0.5, 0.5)),
        "image": jm.vjepa_mask(key, (8, 8)),
        "spans": jm.span_mask(key, (1000,), mask_ratio=0.004, span=1, overlap=False),
        "none": clip(exactly=0),
        "all": clip(exactly=12),
        "none or all": (counted(jnp.array([0, 4])), clipped(jnp.arange(5))),
        "4 bits": [jm.random_mask(key, GRID, num_masked=count) for count in of_4_bits],
        "4 bits clipped": [clip(exactly=count) for count in of_4_bits],
        "4 bits within": jm.random_mask(
            key, GRID, num_masked=11, within=jnp.array([2, 3], jnp.int4)
        ),
        "padded": context_with_padding(key),
    }


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, draw(jax.random.split(KEY, 50)))


def counts(masks):
    return set(masks.reshape(len(masks), -1).sum(1).tolist())


class TestSmallerSamples:
    def test_the_mask_of_a_single_token_is_empty(self, drawn):
        assert counts(drawn["one real token"]) == {0}

    def test_centers_are_those_of_the_sample(self, drawn):
        np.testing.assert_array_equal(drawn["centered"][:, :5], drawn["centered alone"])
        assert not drawn["centered"][:, 5:].any()
        assert drawn["centered"][:, :5].any(0).all()

    def test_a_box_counts_in_tokens_whatever_the_size(self, drawn):
        assert counts(drawn["long box"]) == {49}

    def test_a_context_is_topped_up_by_real_tokens_that_are_no_target(self, drawn):
        context, free = drawn["padded"]
        assert not (context & ~free).any()
        assert context.sum((1, 2)).tolist() == np.minimum(free.sum((1, 2)), 22).tolist()
        assert min(counts(free)) < 22

    @pytest.mark.parametrize(
        ("within", "sides"),
        [
            ((jnp.uint32(2**32 - 1), 2), (3, 2)),  # -1 as int32
            ((-(2**40), 2), (1, 2)),
            (np.array([2, 3], jnp.int4), (2, 3)),
            ((np.array(2, jnp.int4), jnp.array(3, jnp.uint4)), (2, 3)),
        ],
        ids=str,
    )
    def test_sides_of_every_width(self, within, sides):
        expected = np.zeros(GRID, bool)
        expected[: sides[0], : sides[1]] = True
        np.testing.assert_array_equal(jm.inside(GRID, within), expected)


class TestVideos:
    def test_a_context_is_left_where_blocks_cover_whole_frames(self, drawn):
        assert (~drawn["vjepa"]).any((1, 2, 3)).all()

    def test_one_frame_is_an_image(self, drawn):
        np.testing.assert_array_equal(drawn["frame"][:, 0], drawn["image"])


COUNTED = {
    "random_mask": (lambda n: jm.random_mask(KEY, GRID, num_masked=n), 1, 11),
    "object_mask": (lambda n: jm.object_mask(KEY, 7, num_masked=n), 1, 6),
    "blockwise_mask": (lambda n: jm.blockwise_mask(KEY, GRID, num_masked=n, min_block=1), 1, 11),
    "top_mask": (lambda n: jm.top_mask(FIRST_FIVE.astype(np.float32), num_masked=n), 0, 12),
    "random_span_mask": (
        lambda n: jm.random_span_mask(KEY, (12,), num_masked=n, num_spans=1),
        1,
        11,
    ),
    "exactly": (lambda n: jm.clip_count(KEY, FIRST_FIVE, exactly=n), 0, 12),
    "minimum": (lambda n: jm.clip_count(KEY, FIRST_FIVE, minimum=n), 5, 12),
    "maximum": (lambda n: jm.clip_count(KEY, FIRST_FIVE, maximum=n), 0, 5),
}


class TestCounts:
    @pytest.mark.parametrize(("function", "low", "high"), COUNTED.values(), ids=COUNTED)
    def test_every_array_of_numpy_is_clamped_and_compiles_once(self, function, low, high):
        values = [np.array(n) for n in (-(2**40), 0, 3, 5, 9, 2**40)]
        values += [np.array(6, np.uint8), np.array(2**64 - 1, np.uint64), np.array(-3, jnp.int4)]
        function(np.array(1))
        with no_trace():
            got = [int(np.asarray(function(value)).sum()) for value in values]
        assert got == [min(max(int(value), low), high) for value in values]

    def test_integers_of_four_bits(self, drawn):
        assert [counts(masks) for masks in drawn["4 bits"]] == [{1}, {3}, {7}]
        assert [counts(masks) for masks in drawn["4 bits clipped"]] == [{0}, {3}, {7}]
        masks = drawn["4 bits within"]
        assert counts(masks) == {5}  # of 2x3
        assert not masks[:, 2:].any()
        assert not masks[:, :, 3:].any()

    def test_none_and_all(self, drawn):
        assert counts(drawn["none"]) == {0}
        assert counts(drawn["all"]) == {12}

    def test_clip_count_reaches_none_and_all_where_random_mask_is_clamped(self, drawn):
        random, clipped = drawn["none or all"]
        assert (random.sum(2) == [1, 3]).all()
        assert (clipped.sum(2) == range(5)).all()

    def test_spans_of_one_token_that_are_few(self, drawn):
        assert counts(drawn["spans"]) == {4}  # 0.004 * 1000

    @pytest.mark.parametrize("side", SIMMIM)
    def test_simmim_rounds_to_the_nearest_and_its_authors_up(self, side):
        cells = (side // 8) ** 2
        rounded = {56: 29, 64: 38, 96: 86}[side]
        assert math.ceil(0.6 * cells) == rounded + 1
        up = {"mask_ratio": None, "num_masked": math.ceil(0.6 * cells)}
        for options, expected in (({}, rounded), (up, rounded + 1)):
            mask = np.asarray(jm.presets.simmim(KEY, (side, side), **options))
            of_cells = mask.reshape(side // 8, 8, side // 8, 8).sum((1, 3))
            assert np.unique(of_cells, return_counts=True)[1].tolist() == [
                cells - expected,
                expected,
            ]


def test_the_smallest_target_of_a_large_grid_is_that_of_enumeration():
    aspects = np.arange(4500, 9001) / 6000  # the steps that a block of this size leaves room for
    tokens = math.floor(256 * 256 * 0.6)
    areas = np.rint(np.sqrt(tokens * aspects)) * np.rint(np.sqrt(tokens / aspects))
    found = jm.ijepa_counts((256, 256), num_targets=1, target_scale=(0.6, 0.6))
    assert (found.target_min, found.target_max) == (areas.min(), areas.max())
    assert found.target_min == 39_130


def test_a_side_halfway_between_two_integers_is_rounded_to_the_even_one():
    # sqrt(541,205 * 0.8) is 658, and sqrt(541,205 / 0.8) is 822.5.
    scale = (541_205 / 2000**2,) * 2
    options = {"num_targets": 1, "target_scale": scale, "target_aspect_ratio": (0.8, 0.8)}
    found = jm.ijepa_counts((2000, 2000), **options)
    assert found.target_min == found.target_max == 658 * 822

    @jax.jit
    def sides(word):
        plan = _tracing.planned(_sizes.jepa_blocks, 2000**2, "aspect", scale, (0.8, 0.8))
        return _sizes.sample_jepa_sides(word, word, plan, (2000, 2000), keep_area=True)

    assert [int(side) for side in sides(jnp.uint32(0))] == [658, 822]


UNORDERED = jm.TokenIndices(np.array([2, 0, 1], np.int32), np.array([True, False, True]), 4)
SECOND_IS_PADDING = jm.TokenIndices(np.array([1, 4], np.int32), np.array([True, False]), 4)


class JaxArray:
    """What libraries wrap parameters in."""

    def __init__(self, value):
        self.value = jnp.float32(value)
        self.dtype, self.shape = self.value.dtype, self.value.shape

    def __jax_array__(self):
        return self.value


class TestTokens:
    def test_valid_counts_in_a_list_of_any_order(self):
        put = jm.put_tokens(np.array([[1], [2], [3]], np.float32), UNORDERED)
        assert put[:, 0].tolist() == [0, 3, 1, 0]

    @pytest.mark.parametrize("enable", [False, True], ids=["32", "64"])
    def test_a_fill_of_float64_is_what_jax_makes_of_it(self, enable):
        with x64(enable):
            taken = jm.take_tokens(np.ones((4, 2)), SECOND_IS_PADDING, fill=0.1)
            put = jm.put_tokens(np.ones((2, 2)), SECOND_IS_PADDING, fill=-1)
            assert taken.dtype == put.dtype == (np.float64 if enable else np.float32)
            np.testing.assert_array_equal(taken, np.array([[1, 1], [0.1, 0.1]], taken.dtype))
            np.testing.assert_array_equal(put, [[-1, -1], [1, 1], [-1, -1], [-1, -1]])

    def test_a_wrapped_fill_is_read_at_every_call(self):
        tokens = np.ones((2, 2), np.float32)
        for value in (7.0, 8.0):
            put = jm.put_tokens(tokens, SECOND_IS_PADDING, fill=JaxArray(value))
            assert put[0].tolist() == [value, value]

    def test_keys_are_tokens(self):
        keys = jax.random.split(KEY, 4)
        taken = jm.take_tokens(keys[:, None], SECOND_IS_PADDING)
        put = jm.put_tokens(taken, SECOND_IS_PADDING)
        bits = np.asarray(jax.random.key_data(keys))
        np.testing.assert_array_equal(jax.random.key_data(taken)[0, 0], bits[1])
        np.testing.assert_array_equal(jax.random.key_data(put)[1, 0], bits[1])
        assert not jax.random.key_data(put)[np.array([0, 2, 3])].any()
        with pytest.raises(ValueError, match="fill must be a number that key<fry> tokens can hold"):
            jm.take_tokens(keys[:, None], SECOND_IS_PADDING, fill=1)

    def test_powers_of_two_are_tokens(self):
        tokens = np.array([[1], [4], [2], [8]], jnp.float8_e8m0fnu)
        taken = jm.take_tokens(tokens, SECOND_IS_PADDING)
        assert taken.dtype == tokens.dtype
        assert taken[0].astype(np.float32) == 4
        put = jm.put_tokens(taken, SECOND_IS_PADDING, fill=2)
        assert put[:, 0].astype(np.float32).tolist() == [2, 4, 2, 2]

    def test_two_lists_compare_as_one_bool(self):
        one, other = (jm.token_indices(FIRST_FIVE, size=3) for _ in range(2))
        assert ((one == one), (one == other), (one != other)) == (True, False, True)
        assert len({one, other}) == 2

    def test_exported_pairs_of_masks_and_lists_keep_their_public_names(self):
        def sample(key):
            masks = jm.ijepa_masks(key, (8, 8), num_targets=1, min_keep=1)
            return masks, jm.token_indices(masks.context, size=9)

        stored = export.export(jax.jit(sample))(KEY).serialize()
        for name in (b"jepa_masks_jax.ContextTargetMasks", b"jepa_masks_jax.TokenIndices"):
            assert name in stored
        masks, listed = export.deserialize(stored).call(KEY)
        expected, expected_list = jax.jit(sample)(KEY)
        np.testing.assert_array_equal(masks.targets, expected.targets)
        np.testing.assert_array_equal(masks.context, expected.context)
        np.testing.assert_array_equal(listed.indices, expected_list.indices)


class TestTypes:
    @pytest.mark.slow
    def test_a_program_with_every_kind_of_value_runs(self):
        user_types.main()

    def test_the_program_has_every_public_function_and_type(self):
        source = Path(user_types.__file__).read_text()
        names = [name for name in jm.__all__ if not inspect.ismodule(getattr(jm, name))]
        assert [name for name in names if not re.search(rf"\bjm\.{name}\b", source)] == []


def test_large_blocks_of_one_aspect_ratio_stay_blocks():
    """A block of 1,024 tokens at aspect 1.5 is 39x26: it has a few edges, single tokens many."""
    options = {"num_masked": 2048, "min_block": 1024, "max_block": 1024}
    mask = jm.blockwise_mask(jax.random.key(0), (64, 64), aspect_ratio=(1.5, 1.5), **options)
    assert int(mask.sum()) == 2048
    assert np.count_nonzero(np.diff(np.asarray(mask).astype(int))) < 400
