"""Bad input is refused, eager or traced, by a message that names the parameter."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import x64

import jepa_masks_jax as jm

NAN, INF = math.nan, math.inf
KEY = jax.random.key(0)

# For each kind of parameter, what is of the wrong type and what is out of range.
COUNT = ([2.0, NAN, INF, True, np.True_, None, "3", [3], np.array(3)], [0, -1, np.int64(-1)])
RATIO = (
    [0.2, True, None, "ab", {0.1, 0.2}, (True, True), (None, 0.2), ("a", "b"), np.array(0.2)],
    [(0.2, 0.1), (0, 0.2), (-0.1, 0.2), (NAN, 0.2), (0.1, NAN), (0.1, INF), (), (0.1,), (0.1,) * 3],
)
SCALE = (RATIO[0], [*RATIO[1], (0.5, 1.1), [1.5, 1.5]])
FRACTION_OR_ONE = (
    [None, "0.5", True, [0.5], (0.2, 0.5), np.array([0.5])],
    [0, 0.0, -0.1, 1.5, NAN, INF, -INF],
)
FRACTION = (FRACTION_OR_ONE[0], [*FRACTION_OR_ONE[1], 1, 1.0])
RATIOS = (
    [None, "0.5", True, (0.2, "0.5"), np.array(0.5)],
    [0, 0.0, -0.1, 1, 1.5, NAN, INF, [0.5], (0.5, 0.2), (0.2, 1.0), (0.2, 0.3, 0.4)],
)
COUNT_RANGE = (
    [3, None, "24", (2.0, 4), (True, 4), (1, NAN), np.array(3)],
    [(0, 2), (-1, 2), (4, 2), (), (2,), (1, 2, 3)],
)
NUM_MASKED = (
    [2.0, NAN, None, True, "2", (1.0, 2), (True, 2), np.array(2.0)],
    [0, -1, 7, (0, 2), (3, 2), (1, 7), (), (1,), (1, 2, 3)],
)
NUM_MASKED_196 = (
    [2.0, NAN, True, "2", (1.0, 2), np.array(2.0)],
    [0, -1, 196, (0, 2), (3, 2), (1, 196), (), (1,), (1, 2, 3)],
)
GRID = (
    [14, None, "14", True, {8, 14}, (14.0, 14), (NAN, 14), (True, 14), (None, 14), np.array(14)],
    [(), (14,), (2, 3, 4, 5), (0, 14), (14, -1), (1, 1), (10**5, 10**5)],
)
IMAGE_GRID = (GRID[0], [*GRID[1], (8, 14, 14)])
IJEPA_GRID = (GRID[0], [(), (1,), *IMAGE_GRID[1][2:]])
SEQUENCE = ([14, None, "7", (7.0,), (True,), np.array(14)], [(), (1,), (0,), (14, 14), (10**9,)])
VIDEO_GRID = (
    [14, None, "123", (8.0, 14, 14), (8, NAN, 14), (8, 14, True), (8, 14, None), np.array(14)],
    [(), (14, 14), (1, 2, 3, 4), (8, 0, 14), (-8, 14, 14), (8, 1, 1), (10**5, 10**5, 10**5)],
)

STRATEGIES = {
    jm.block_mask: {
        "grid": GRID,
        "num_targets": COUNT,
        "target_scale": SCALE,
        "target_aspect_ratio": RATIO,
    },
    jm.spatiotemporal_mask: {
        "grid": GRID,
        "num_targets": COUNT,
        "temporal_extent": COUNT_RANGE,
        "spatial_scale": SCALE,
    },
    jm.multi_block_mask: {"grid": GRID, "mask_ratio": FRACTION, "num_blocks": COUNT},
    jm.vjepa_mask: {
        "grid": (GRID[0], [(), (1,), *GRID[1][2:]]),
        "num_blocks": COUNT,
        "spatial_scale": SCALE,
        "temporal_scale": SCALE,
        "aspect_ratio": RATIO,
        "max_temporal_keep": FRACTION_OR_ONE,
    },
    jm.ijepa_masks: {
        "grid": IJEPA_GRID,
        "num_targets": COUNT,
        "target_scale": SCALE,
        "target_aspect_ratio": RATIO,
        "context_scale": SCALE,
        "min_keep": COUNT,
        "allow_overlap": ([None, 1, "yes"], []),
        "sampling": ([], ["Reference", "paper", "", None, 1, ["reference"]]),
    },
    jm.random_mask: {"grid": (GRID[0], [(), (1,), (1,) * 5, *GRID[1][3:]]), "mask_ratio": RATIOS},
    jm.random_tube_mask: {"grid": VIDEO_GRID, "mask_ratio": FRACTION},
    jm.span_mask: {"grid": SEQUENCE, "mask_ratio": FRACTION, "span": (COUNT[0], [*COUNT[1], 196])},
    jm.random_span_mask: {
        "grid": SEQUENCE,
        "mask_ratio": RATIOS,
        "mean_span": ([None, "3", True, [3.0], np.array(3.0)], [0, 0.99, -1, NAN, INF]),
        "ends": ([], ["T5", "", None, 1, ["t5"]]),
    },
    jm.inverse_block_mask: {
        "grid": IMAGE_GRID,
        "mask_ratio": FRACTION,
        "aspect_ratio": RATIO,
        "roll": ([None, 1, "yes"], []),
    },
    jm.blockwise_mask: {
        "grid": (GRID[0], [*IMAGE_GRID[1], (1, 14)]),
        "num_masked": NUM_MASKED_196,
        "min_block": (COUNT[0], [*COUNT[1], 197]),
        "max_block": ([2.0, NAN, True, "3", [3]], [0, -1, 197]),
        "aspect_ratio": RATIO,
    },
    jm.object_mask: {"num_slots": (COUNT[0], [1, 0, -1]), "num_masked": NUM_MASKED},
}
VALID = {
    **{function: {"grid": (14, 14)} for function in STRATEGIES},
    jm.random_mask: {"grid": (14, 14), "mask_ratio": 0.5},
    jm.random_tube_mask: {"grid": (8, 14, 14), "mask_ratio": 0.5},
    jm.object_mask: {"num_slots": 7},
    jm.span_mask: {"grid": (196,), "mask_ratio": 0.5, "span": 10},
    jm.random_span_mask: {"grid": (196,), "mask_ratio": 0.5, "mean_span": 3},
    jm.inverse_block_mask: {"grid": (14, 14), "mask_ratio": 0.5},
    jm.blockwise_mask: {"grid": (14, 14), "num_masked": 75},
    jm.clip_count: {"mask": np.eye(4, dtype=bool), "minimum": 5},
}
OPTIONS = [(function, name) for function, kinds in STRATEGIES.items() for name in kinds]


def name_of(value):
    return getattr(value, "__name__", None)


def answer(call):
    """The error with which a call is refused, or None."""
    try:
        call()
    except Exception as error:
        return error
    return None


def assert_refused(calls, errors, pattern, traced=None):
    """Asserts that every call is refused so; a failure shows the names of those that are not.

    Calls take what is `traced`, if anything is.
    """
    answers = {}

    def call_all(*traced):
        for name, call in calls.items():
            answers[name] = answer(functools.partial(call, *traced))

    if traced is None:
        call_all()
    else:
        jax.eval_shape(call_all, traced)
    wrong = {
        name: error
        for name, error in answers.items()
        if not (isinstance(error, errors) and re.search(pattern, str(error)))
    }
    assert wrong == {}


@pytest.mark.parametrize(("function", "name"), OPTIONS, ids=name_of)
def test_an_option_of_a_wrong_type_or_out_of_range(function, name):
    for error, values in zip((TypeError, ValueError), STRATEGIES[function][name], strict=True):
        calls = {
            f"{name}={value!r}": functools.partial(function, **{**VALID[function], name: value})
            for value in values
        }
        eager = {of: functools.partial(call, KEY) for of, call in calls.items()}
        assert_refused(eager, error, rf"\b{name}\b")
        assert_refused(calls, error, rf"\b{name}\b", traced=KEY)


@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, name in OPTIONS if name != "num_masked"],  # may be traced
    ids=name_of,
)
def test_a_traced_option(function, name):
    forms = {"one": lambda x: x[0], "an array": lambda x: x, "a pair": lambda x: (x[0], x[1])}

    def calling(form):
        return lambda traced: function(KEY, **{**VALID[function], name: form(traced)})

    calls = {what: calling(form) for what, form in forms.items()}
    traced = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert_refused(calls, (TypeError, ValueError), rf"\b{name}\b", traced)


NOT_KEYS = [
    *(None, 0, "key", (0, 1), [0, 0], object),
    *(np.zeros(2), np.zeros(2, np.int32), np.uint32(3)),
]
BATCHES = [
    jax.random.split(KEY, 4),
    jax.random.split(KEY, 1),
    jax.random.split(jax.random.PRNGKey(0), 4),
    jax.random.split(KEY, (2, 2)),
]


@pytest.mark.parametrize("function", VALID)
def test_what_is_not_a_key_and_a_batch_of_keys_which_is_told_of_vmap(function):
    call = functools.partial(function, **VALID[function])
    calls = {repr(key): functools.partial(call, key) for key in NOT_KEYS}
    assert_refused(calls, TypeError, r"\bkey\b")
    calls = {str(keys.aval): functools.partial(call, keys) for keys in BATCHES}
    calls |= {
        f"{keys.aval} inside jit": functools.partial(jax.eval_shape, call, keys) for keys in BATCHES
    }
    assert_refused(calls, ValueError, r"\bkey\b.*jax\.vmap")


PIXELS = (
    [None, 14.0, "14", True, NAN, (14.0, 14), (True, 14), {14, 16}, np.array(14)],
    [0, -1, (), (224,), (1, 2, 3), (0, 16)],
)
SIZES = {
    jm.image_grid: {"image_size": PIXELS, "patch_size": PIXELS},
    jm.video_grid: {
        "num_frames": COUNT,
        "image_size": PIXELS,
        "patch_size": PIXELS,
        "tubelet_size": COUNT,
    },
}
VALID_SIZES = {"image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2}


@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, kinds in SIZES.items() for name in kinds],
    ids=name_of,
)
def test_pixels_and_frames_of_a_wrong_type_or_out_of_range(function, name):
    call = functools.partial(function, **{other: VALID_SIZES[other] for other in SIZES[function]})
    for error, values in zip((TypeError, ValueError), SIZES[function][name], strict=True):
        calls = {f"{value!r}": functools.partial(call, **{name: value}) for value in values}
        assert_refused(calls, error, rf"\b{name}\b")
    traced = functools.partial(jax.eval_shape, lambda traced: call(**{name: traced}), 16)
    assert_refused({"traced": traced}, TypeError, rf"\b{name}\b")


MASK = np.eye(4, dtype=bool)
INDICES = jm.TokenIndices(np.arange(3, dtype=np.int32), np.ones(3, bool), 16)
BATCHED = jm.TokenIndices(np.zeros((2, 3), np.int32), np.ones((2, 3), bool), 16)
FLOATS = jm.TokenIndices(np.arange(3.0), np.ones(3, bool), 16)
TWO_LISTED = jm.TokenIndices(np.array([2, 0, 4], np.int32), np.array([True, True, False]), 4)
TOKENS = np.zeros((16, 2), np.float32)
IMAGE, SHORT, CLIP = (14, 14), (3, 5), (3, 4)


def on(function, *args):
    """The function with a key, and where it is drawn."""
    return functools.partial(function, KEY, *args)


def refused(error, message, call, *args, **options):
    return functools.partial(call, *args, **options), error, message


value_error = functools.partial(refused, ValueError)
type_error = functools.partial(refused, TypeError)


def top(**options):
    return functools.partial(jm.top_mask, jnp.ones((2, 3)), **{"num_masked": 1, **options})


def boxes(**options):
    options = {"grid": (20,), "num_boxes": 2, "extent": (2,), **options}
    return functools.partial(jm.box_mask, KEY, **options)


def traced(function, *args):
    return functools.partial(jax.eval_shape, function, *args)


def filling(dtype, fill):
    """A fill of padding, and of places without a token."""
    taken, put = np.ones((4, 2), dtype), np.ones((3, 2), dtype)
    return [
        functools.partial(function, tokens, TWO_LISTED, fill=fill)
        for function, tokens in ((jm.take_tokens, taken), (jm.put_tokens, put))
    ]


clip = on(jm.clip_count)
clip_mask = on(jm.clip_count, MASK)
random = on(jm.random_mask, SHORT)
counted = on(jm.random_mask, CLIP)
of_8x8 = on(jm.random_mask, (8, 8))
slots = on(jm.object_mask, 7)
block = on(jm.block_mask, IMAGE)
blockwise = on(jm.blockwise_mask, IMAGE)
inverse = on(jm.inverse_block_mask)
spans = on(jm.span_mask)
wav2vec2 = on(jm.presets.wav2vec2)
runs = on(jm.random_span_mask, (9,))
three = functools.partial(runs, num_masked=3)
ijepa_on = on(jm.ijepa_masks)
ijepa = on(jm.ijepa_masks, IMAGE)
vjepa_on = on(jm.vjepa_mask)
listed = functools.partial(jm.token_indices, MASK)
take = functools.partial(jm.take_tokens, TOKENS)
put = functools.partial(jm.put_tokens, np.ones((2, 4, 1), np.float32))
masks_of_mask = np.stack([MASK] * 3)
HUGE = 10**12
TILTED = {"target_aspect_ratio": (0.1, 10)}
REFERENCE = {"sampling": "reference"}
REAL = {"within": (4, 4)}

# A call with the options that make it wrong, and how it is refused.
REFUSALS = [
    # Keys and grids.
    refused((TypeError, ValueError), "key", lambda: jm.block_mask(jnp.zeros(3, jnp.uint32), IMAGE)),
    type_error("key must be a JAX PRNG key", listed, size=2, key=object()),
    value_error("key must be a single key", listed, size=2, key=BATCHES[0]),
    type_error("grid must be a tuple of Python ints", jm.block_mask, KEY, jnp.array([14, 14])),
    *(
        value_error(r"\bgrid\b.*two tokens in a frame.*\(4, 1, 1\)", call, KEY, (4, 1, 1))
        for call in (jm.block_mask, jm.multi_block_mask, jm.presets.videomae_tube)
    ),
    value_error("image_size.*patch_size", jm.image_grid, 224, 15),
    value_error("image_size.*patch_size", jm.image_grid, (224, 225), 16),
    value_error("num_frames.*tubelet_size", jm.video_grid, 15, 224, 16),
    value_error("image_size.*patch_size", jm.video_grid, 16, 224, (16, 15)),
    # Counts and ratios.
    type_error(r"num_masked .*float32.*astype\(int\)", lambda: counted(num_masked=jnp.float32(3))),
    type_error("num_masked .*bool", lambda: counted(num_masked=jnp.array(True))),
    value_error(r"num_masked .*\(3,\).*jax\.vmap", lambda: counted(num_masked=jnp.arange(3))),
    value_error(r"num_masked must be in \[1, 11\], got 12", counted, num_masked=12),
    type_error("exactly one of mask_ratio and num_masked", counted),
    type_error("exactly one .*pass mask_ratio=None", jm.presets.mae, KEY, CLIP, num_masked=3),
    value_error("mask_ratio must be finite", counted, mask_ratio=10**400),
    value_error("cell", counted, num_masked=2, cell=(2, 2)),
    value_error("cell", counted, num_masked=2, cell=(3, 4)),
    type_error("cell", counted, num_masked=2, cell=2),
    type_error(r"cell\[0\]", counted, num_masked=2, cell=(1.0, 2)),
    *(
        value_error(rf"{name} must be in \[1, 65536\], got {HUGE}", call, **{name: HUGE})
        for call, name in [
            (block, "num_targets"),
            (on(jm.spatiotemporal_mask, IMAGE), "num_targets"),
            (on(jm.multi_block_mask, IMAGE), "num_blocks"),
            (ijepa, "num_targets"),
            (on(jm.vjepa_mask, IMAGE), "num_blocks"),
        ]
    ),
    # Tokens among which masks are random: a count is checked against the whole grid.
    *(
        value_error(rf"among .*\(3, 5\).*{got}", random, mask_ratio=0.5, among=np.ones(shape, bool))
        for shape, got in [((5, 3), r"\(5, 3\)"), (15, r"\(15,\)"), ((2, 3, 5), r"\(2, 3, 5\)")]
    ),
    *(
        type_error(f"among must be a boolean array, got {got}", random, mask_ratio=0.5, among=among)
        for among, got in [
            (np.ones(SHORT, np.int32), "int32"),
            (np.ones(SHORT, np.float32), "float32"),
            ([[True] * 5] * 3, "list"),
        ]
    ),
    value_error(r"among .*7", slots, among=np.ones(8, bool)),
    value_error(
        r"cell .*among", on(jm.random_mask, (4, 4)), mask_ratio=0.5, cell=(2, 2), among=MASK
    ),
    value_error(
        r"num_masked must be in \[1, 14\]", random, num_masked=15, among=np.ones(SHORT, bool)
    ),
    # Options of one strategy.
    value_error("sampling .*'paper' is now 'independent'", ijepa, sampling="paper"),
    value_error("lower num_targets to 4", ijepa_on, (200, 200), num_targets=6, **TILTED),
    value_error(
        r"guarantee .* 1 of 49 tokens, fewer than 6 \(min_keep\)", ijepa_on, (7, 7), min_keep=6
    ),
    value_error("grid .*sampling='reference'", ijepa_on, (100,), **REFERENCE),
    *(
        value_error("grid .*each at least 2, for sampling='reference'", ijepa_on, grid, **REFERENCE)
        for grid in [(1, 14), (14, 1)]
    ),
    *(
        value_error("too thin for sampling='reference'", call, (2, 300), **REFERENCE)
        for call in (jm.ijepa_counts, ijepa_on)
    ),
    value_error(
        "target_aspect_ratio .*32-bit arithmetic .*up to 3121342 tokens", ijepa_on, (4096, 4096)
    ),
    value_error(
        "target_aspect_ratio .*32-bit arithmetic .*up to 8 tokens",
        block,
        target_aspect_ratio=(0.01, 100),
    ),
    *(
        value_error(f"{name} has no meaning without frames", vjepa_on, grid, **{name: value})
        for grid in [IMAGE, (14,)]
        for name, value in [("temporal_scale", (0.5, 1.0)), ("max_temporal_keep", 0.5)]
    ),
    value_error(
        r"\btemporal_extent\b", on(jm.spatiotemporal_mask, (8, 14, 14)), temporal_extent=(8, 10**10)
    ),
    value_error(r"min_block must be in \[1, 9\].*a preset's", jm.presets.beit, KEY, (3, 3)),
    value_error(
        "min_block must be at most max_block, got 16 and 9", blockwise, num_masked=20, max_block=9
    ),
    value_error("aspect_ratio .*from 0.0035 to 0.0285714", inverse, (1, 100), mask_ratio=0.65),
    type_error("exactly one of mask_ratio and num_masked", inverse, IMAGE),
    type_error("num_masked must be an integer", inverse, IMAGE, num_masked=(3, 5)),
    value_error("placement .*'centred' is now 'centered'", boxes(placement="centred")),
    type_error(r"extent .*\(\(2, 4\),\)", boxes(extent=3)),
    value_error(r"extent .*1 in all.*\(\(2, 4\),\)", boxes(extent=(2, 4))),
    value_error(r"extent\[0\]", boxes(extent=((4, 2),))),
    value_error(r"extent\[0\]", boxes(extent=(0,))),
    type_error(r"extent\[0\]", boxes(extent=(2.0,))),
    value_error(r"extent\[0\].*16777216", boxes(extent=(2**24 + 1,))),
    value_error("num_boxes", boxes(num_boxes=0)),
    value_error("placement", boxes(placement="outside")),
    value_error("grid", boxes(grid=(2, 2, 2, 2, 2))),
    value_error("grid", boxes(grid=(1,))),
    *(
        value_error(f"span must be in .*{length - 1}", wav2vec2, (length,), overlap=False)
        for length in (2, 10)
    ),
    *(type_error("overlap", wav2vec2, (100,), overlap=overlap) for overlap in (0, None, "no")),
    type_error("exactly one of mean_span and num_spans .*None and None", runs, num_masked=3),
    type_error("mean_span and num_spans", runs, num_masked=3, mean_span=3, num_spans=1),
    type_error("exactly one of mask_ratio and num_masked", runs, num_spans=1),
    value_error(r"num_masked must be in \[1, 8\], got 9", runs, num_masked=9, num_spans=1),
    value_error(r"num_spans must be in \[1, 5\], got 6", three, num_spans=6),
    value_error(r"num_spans must be in \[1, 4\], got 5", three, num_spans=5, ends="t5"),
    type_error("num_spans must be an integer, got 2.0", three, num_spans=2.0),
    type_error("num_spans .*float32", lambda: three(num_spans=jnp.float32(2))),
    value_error(r"num_spans .*jax\.vmap", lambda: three(num_spans=jnp.arange(3))),
    value_error("within must be", three, num_spans=1, within=(3, 3)),
    type_error(
        "mean_span is traced.*num_spans=.*may be traced",
        traced(lambda mean: three(mean_span=mean), 3.0),
    ),
    # Sizes of a sample: options are checked against the whole grid.
    value_error("cell .*within", of_8x8, mask_ratio=0.5, cell=(2, 2), **REAL),
    value_error("within .*'reference'", ijepa_on, (8, 8), **REFERENCE, **REAL),
    *(
        value_error(
            "within .*temporal_scale",
            vjepa_on,
            (4, 8, 8),
            temporal_scale=(0.5, high),
            within=(4, 4, 4),
        )
        for high in (0.5, 1.0)
    ),
    value_error(r"num_masked must be in \[1, 63\]", of_8x8, num_masked=64, **REAL),
    value_error("guarantee the context 0 of 16 tokens", ijepa_on, (4, 4), **REAL),
    value_error("span must be in", spans, (8,), mask_ratio=0.5, span=8, within=(4,)),
    # Scores.
    *(
        type_error("scores must be .*got", jm.top_mask, scores, num_masked=1)
        for scores in [
            np.ones(3, bool),
            np.ones(3, np.complex64),
            [0.1, 0.2],
            0.5,
            None,
            BATCHES[0],
        ]
    ),
    *(
        value_error("scores must have axes", jm.top_mask, jnp.ones(shape), num_masked=0)
        for shape in [(), (0,), (3, 0)]
    ),
    value_error(r"num_masked must be in \[0, 6\], got 7", top(num_masked=7)),
    *(
        type_error("num_masked must be an integer", top(num_masked=count))
        for count in [True, None, (1, 2), np.float32(2), np.array(2.0)]
    ),
    value_error("num_masked must be one integer.*jax.vmap", top(num_masked=np.array([2]))),
    value_error(r"among .*\(2, 3\).*\(6,\)", top(among=np.ones(6, bool))),
    value_error(r"among .*\(2, 3\).*\(3, 2\)", top(among=np.ones((3, 2), bool))),
    type_error("among must be a boolean array", top(among=np.ones((2, 3)))),
    # Options that are traced.
    type_error(
        "num_targets is traced; close over it or make it static",
        traced(lambda n: jm.block_mask(KEY, IMAGE, num_targets=n), 3),
    ),
    type_error(
        r"mask_ratio is traced; close over it or make it static.*num_masked=jnp\.round",
        traced(lambda r: jm.random_mask(KEY, IMAGE, mask_ratio=r), 0.5),
    ),
    type_error(
        r"target_scale.* is traced.*jax\.lax\.switch",
        traced(lambda s: ijepa(target_scale=(s, s)), 0.1),
    ),
    type_error(
        "size is traced; close over it or make it static", traced(lambda size: listed(size=size), 3)
    ),
    type_error("fill is traced", traced(lambda fill: take(INDICES, fill=fill), 1.0)),
    # Counts of a mask, and index lists.
    value_error(r"\bmask\b", clip, np.array(True), minimum=1),
    value_error(r"\bmask\b", clip, np.zeros((0, 4), bool), minimum=0),
    *(
        value_error(r"\bamong\b", clip_mask, minimum=5, among=among)
        for among in (MASK[0], MASK[:1], MASK.reshape(16))
    ),
    value_error(r"\bminimum\b", clip_mask, minimum=3, maximum=2),
    *(type_error(r"\bminimum\b", clip_mask, minimum=wrong) for wrong in (None, 2.0, True)),
    type_error(r"\bminimum .*float32.*astype\(int\)", lambda: clip_mask(minimum=jnp.float32(3))),
    value_error(r"\bminimum .*\(3,\).*jax\.vmap", lambda: clip_mask(minimum=jnp.arange(3))),
    *(
        value_error(f"^{name} must be in .*{got}$", clip_mask, **{name: count})
        for name in ("exactly", "minimum", "maximum")
        for count, got in [(-1, -1), (17, 17), (np.int64(99), 99)]
    ),
    *(
        type_error("exactly must not be given", clip_mask, exactly=3, **other)
        for other in ({"maximum": 5}, {"minimum": 2}, {"minimum": np.array(0)})
    ),
    *(type_error(r"\bmaximum\b", clip_mask, maximum=wrong) for wrong in ("4", NAN)),
    value_error(r"\bmask\b", jm.token_indices, np.array(True), size=1),
    *(value_error(r"\bsize\b", listed, size=wrong) for wrong in (0, 17)),
    *(type_error(r"\bsize\b", listed, size=wrong) for wrong in (4.0, True, None)),
    type_error(r"\bsize\b", lambda: listed(size=jnp.int32(4))),
    # Tokens that are taken and put back.
    value_error(r"\bindices\b.*jax\.vmap", take, BATCHED),
    value_error(r"indices must be one index list.*jax\.vmap", put, BATCHED),
    *(
        type_error(r"\bindices\b", take, wrong)
        for wrong in (tuple(INDICES), INDICES.indices, MASK, None)
    ),
    type_error("indices must be the TokenIndices", put, tuple(INDICES)),
    type_error(r"\bindices\b.*float64", take, FLOATS),
    *(
        type_error("tokens must be an array", function, tokens, INDICES)
        for function in (jm.take_tokens, jm.put_tokens)
        for tokens in (None, 1.0, [[1.0]] * 6, "tokens")
    ),
    value_error(r"\btokens\b", jm.take_tokens, TOKENS[0], INDICES),
    *(
        value_error(
            rf"tokens must have shape \[\.\.\., 16, D\].*{advice}",
            jm.take_tokens,
            np.zeros(shape, np.float32),
            INDICES,
        )
        for shape, advice in [
            ((17, 2), "class token"),
            ((4, 9, 2), "got"),  # of another grid
            ((2, 16), "got"),  # [D, N]
            ((4, 4, 2), r"H \* W"),  # a map
        ]
    ),
    *(
        value_error(
            r"tokens must have shape \[\.\.\., 3, D\], got \(",
            jm.put_tokens,
            np.ones(shape, np.float32),
            TWO_LISTED,
        )
        for shape in [(3, 5, 2), (5, 2)]
    ),
    value_error(
        r"tokens must have .*48, D.*jax\.vmap",
        lambda: jm.take_tokens(TOKENS, jm.token_indices(masks_of_mask, size=3)),
    ),
    *(
        value_error(f"{np.dtype(dtype)} tokens can hold{got}", call)
        for dtype, fill, got in [
            (np.int8, 128, ", got 128"),
            (np.int8, 10**30, ""),
            (np.uint32, -1, ", got -1"),
            (np.int32, 1.5, r", got 1\.5"),
            (np.int32, NAN, ", got nan"),
            (np.int32, INF, ", got inf"),
            (np.bool_, 2, ", got 2"),
            (np.float16, 65_536, ", got 65536"),
            (np.float32, -1e39, ""),
            (np.float32, 10**400, ""),
            (jnp.float8_e4m3fn, 1e9, ""),
            (jnp.float4_e2m1fn, 7, ", got 7"),
        ]
        for call in filling(dtype, fill)
    ),
    *(
        type_error(f"fill must be real for {np.dtype(dtype)} tokens", call)
        for dtype, fill in [(np.float32, 1 + 0j), (np.int32, np.complex64(1))]
        for call in filling(dtype, fill)
    ),
    *(
        type_error("fill must be a number", call)
        for fill in (
            *("0", np.str_("5"), np.datetime64("2026-01-01"), np.timedelta64(5, "s")),
            *(None, [0.0, 0.0]),
        )
        for call in filling(np.float32, fill)
    ),
    type_error(
        r"fill must be a number, got float32\[\]", lambda: take(INDICES, fill=jnp.float32(1))
    ),
    *(
        value_error(
            r"fill must be a number or of shape \(3,\), \(1, \.\.\., 3\) or \(4, 3\), got shape \(",
            jm.put_tokens,
            np.ones((3, 3), np.float32),
            TWO_LISTED,
            fill=np.ones(shape),
        )
        for shape in [(2,), (1,), (2, 3), (3, 1), (1, 2)]
    ),
    # The host side.
    *(
        type_error(r"\bmasks?\b", function, None, **options)
        for function, options in {
            clip: {"minimum": 1},
            jm.token_indices: {"size": 1},
            jm.to_mask_spec: {},
            jm.to_mask_specs: {},
            jm.mask_statistics: {},
        }.items()
    ),
    *(
        value_error(r"\bmasks?\b", function, np.ones(shape, bool))
        for function, shapes in {
            jm.to_mask_spec: [(), (3, 0)],
            jm.to_mask_specs: [(2,), (4, 0), (0, 2, 3)],
        }.items()
        for shape in shapes
    ),
    value_error(
        r"masks must have shape \(batch, \*grid\), got \(4,\)", jm.mask_statistics, np.ones(4, bool)
    ),
    *(
        value_error("masks .* none of length 0", jm.mask_statistics, np.ones(shape, bool))
        for shape in [(4, 0), (0, 4), (0, 2, 3)]
    ),
    *(
        type_error("masks? is traced.*token_indices", transform(function), np.ones((2, 4, 4), bool))
        for transform in (jax.jit, jax.vmap)
        for function in (jm.to_mask_spec, jm.to_mask_specs, jm.mask_statistics)
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS)
def test_a_call_that_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64])
def test_scores_of_more_than_32_bits(dtype):
    with x64(True), pytest.raises(TypeError, match=r"scores must be .*at most 32 bits, got"):
        jm.top_mask(np.ones(3, dtype), num_masked=1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda mask: clip(mask, minimum=1), "mask"),
        (lambda mask: clip_mask(minimum=5, among=mask), "among"),
        (lambda mask: jm.token_indices(mask, size=1), "mask"),
        (jm.to_mask_spec, "mask"),
        (jm.to_mask_specs, "masks"),
        (jm.mask_statistics, "masks"),
    ],
)
def test_a_mask_that_is_not_a_boolean_array(call, name):
    pair = jm.ContextTargetMasks(MASK, MASK[None])
    masks = ["mask", 1, True, [[True, False]], MASK * 1, MASK * 1.0, jnp.ones((2, 4)), pair]
    calls = {repr(mask): functools.partial(call, mask) for mask in masks}
    assert_refused(calls, TypeError, rf"\b{name}\b.* boolean array, got ")


@pytest.mark.parametrize(
    ("pixels", "patch", "works"),
    [(32, 16, False), (64, 8, True), (96, 16, False), (112, 16, False), (128, 16, True)],
)
@pytest.mark.parametrize("sampling", ["independent", "reference"])
def test_sizes_on_which_a_retry_would_never_end_work_or_are_refused(pixels, patch, works, sampling):
    grid = jm.image_grid(pixels, patch)
    call = functools.partial(jm.ijepa_masks, KEY, grid, min_keep=10, sampling=sampling)
    if works:
        assert call().context.sum() >= 10
    else:
        with pytest.raises(ValueError, match=r"\bmin_keep\b"):
            call()


REFUSED = [
    ((4, 4), {}),
    ((6, 6), {}),
    ((7, 7), {}),
    ((14, 14), {"min_keep": 50}),
    ((14, 14), {"num_targets": 6, "min_keep": 1}),
    ((14, 14), {"target_scale": (0.3, 0.4)}),
    ((14, 14), {"target_scale": (1, 1)}),
    ((200, 200), {"num_targets": 3, "target_scale": (0.5, 0.6)}),
    ((6, 6), {"sampling": "reference"}),
    ((16, 16), {"num_targets": 8, "target_aspect_ratio": (0.1, 9.0), "sampling": "reference"}),
    ((3, 40), {"num_targets": 5, "target_aspect_ratio": (0.2, 0.3)}),
    ((6, 6), {"num_targets": 8}),
    ((4, 4), {"num_targets": 1, "target_scale": (1, 1), "target_aspect_ratio": (1, 1)}),
]


def refusal(grid, options):
    """The message with which a setting is refused, or None."""
    try:
        jax.eval_shape(lambda key: jm.ijepa_masks(key, grid, **options), KEY)
    except ValueError as error:
        return str(error)
    return None


def advice(message, pattern):
    found = re.search(rf"{pattern} ([\d.]+)", message.partition("; lower ")[2])
    return found and float(found[1])


@pytest.mark.parametrize(("grid", "options"), REFUSED)
def test_each_advice_of_a_refusal_makes_the_call_work_and_only_what_would_not_is_left_out(
    grid, options
):
    message = refusal(grid, options)
    assert all(name in message for name in ("num_targets", "target_scale", "min_keep"))

    num_targets = advice(message, "num_targets to")
    min_keep = advice(message, "min_keep to")
    assert message.endswith("target_scale")
    assert " 0 " not in message.partition("; lower ")[2]
    assert "-" not in message

    def works(**changes):
        return refusal(grid, {**options, **changes}) is None

    if num_targets:
        assert works(num_targets=int(num_targets))
        assert not works(num_targets=int(num_targets) + 1)
    else:
        assert not works(num_targets=1)
    assert works(target_scale=(1e-6, 1e-6)) or not works(target_scale=(1e-6, 1e-6), num_targets=1)
    if min_keep:
        assert works(min_keep=int(min_keep))
        assert not works(min_keep=int(min_keep) + 1)
    else:
        assert not works(min_keep=1)


@pytest.mark.parametrize("sampling", ["independent", "reference"])
def test_with_overlap_the_context_block_alone_must_reach_min_keep(sampling):
    options = {"allow_overlap": True, "context_scale": (0.3, 0.5), "sampling": sampling}
    message = refusal((8, 8), {**options, "min_keep": 50})
    assert "min_keep" in message
    assert "context_scale" in message
    largest = int(re.search(r"at most (\d+)", message)[1])
    assert refusal((8, 8), {**options, "min_keep": largest}) is None
    assert refusal((8, 8), {**options, "min_keep": largest + 1})


def test_with_overlap_the_context_block_counts_as_far_as_the_grid_reaches():
    # The smallest block is 10 by 10 of 102 tokens, cut to 3 rows; elsewhere it keeps its area.
    reference = {"allow_overlap": True, "sampling": "reference", "min_keep": 100}
    assert "min_keep must be at most 20" in refusal((3, 40), reference)
    message = refusal((3, 40), {"allow_overlap": True, "min_keep": 103})
    assert "min_keep must be at most 102" in message


THIN = [
    ((2, 1214), {"min_keep": 1}, 364, 50),
    ((3, 300), {"num_targets": 2, "min_keep": 1}, 135, 45),
]


@pytest.mark.parametrize(("grid", "options", "minimum", "largest"), THIN)
def test_a_grid_too_thin_for_the_blocks_of_the_reference(grid, options, minimum, largest):
    with pytest.raises(ValueError, match=r"\bgrid\b.* is too thin") as caught:
        jm.ijepa_masks(KEY, grid, sampling="reference", **options)
    message = str(caught.value)
    assert f"at least {minimum} tokens" in message
    assert f"holds at most {largest} there" in message
    assert "sampling='independent' keeps the area" in message


@pytest.mark.parametrize("grid", [(1, 1214), (1214, 1), (2, 300), (27, 31), (16, 64), (8, 76)])
def test_thin_and_wide_grids_take_the_published_settings(grid):
    for preset in (jm.presets.ijepa, jm.presets.vjepa_short_range, jm.presets.vjepa_long_range):
        jax.eval_shape(lambda key, preset=preset: preset(key, grid), KEY)


def test_a_grid_is_thin_for_the_reference_below_two_fifths_of_the_minimum_count():
    # Blocks of aspect 1 have a side of 10: of their 100 tokens 40 are left on a height of 4.
    options = {"num_targets": 1, "target_aspect_ratio": (1.0, 1.0), "sampling": "reference"}
    scale = 100 / 400
    jm.ijepa_masks(KEY, (4, 100), target_scale=(scale, scale), **options)
    with pytest.raises(ValueError, match=r"at least 100 tokens, .* holds at most 30 there"):
        jm.ijepa_masks(KEY, (3, 100), target_scale=(100.5 / 300,) * 2, **options)


@pytest.mark.parametrize("function", [jm.ijepa_masks, jm.vjepa_mask])
def test_an_aspect_ratio_on_a_sequence(function):
    name = "target_aspect_ratio" if function is jm.ijepa_masks else "aspect_ratio"
    with pytest.raises(ValueError, match=rf"{name} has no meaning on a sequence"):
        function(KEY, (100,), **{name: (1.0, 1.0)})
    function(KEY, (100,), **{name: [0.75, 1.5]})


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (jm.block_mask, "target_aspect_ratio"),
        (jm.ijepa_masks, "target_aspect_ratio"),
        (jm.vjepa_mask, "aspect_ratio"),
        (jm.blockwise_mask, "aspect_ratio"),
    ],
    ids=name_of,
)
def test_an_aspect_ratio_beyond_what_integers_hold(function, name):
    ratios = [(1e-310, 1.0), (1e-300, 1e300), (1e-9, 1e9), (1e300, 1e300)]
    call = functools.partial(function, KEY)
    calls = {
        repr(ratio): functools.partial(call, **{**VALID[function], name: ratio}) for ratio in ratios
    }
    assert_refused(calls, ValueError, rf"\b{name}\b")


def test_a_numpy_boolean_is_as_good_as_true():
    jm.ijepa_masks(KEY, (14, 14), allow_overlap=np.True_)
