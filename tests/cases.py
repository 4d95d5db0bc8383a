"""The calls that tests of transformations, strict modes and reproducibility run over."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import jepa_masks_jax as jm


class Case(NamedTuple):
    """A public function with everything but its key bound."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, key):
        return self.function(key, *self.args, **self.options)

    def __repr__(self):
        return self.name


_CHECKERBOARD = np.indices((3, 5, 7)).sum(0) % 2 == 0
_LEFT_HALF = np.indices((3, 5, 7))[2] < 4

STRATEGIES = [
    Case("block", jm.block_mask, ((14, 14),), {}),
    Case("block-video", jm.block_mask, ((4, 9, 7),), {"num_targets": 3}),
    Case("block-wide", jm.block_mask, ((5, 70),), {"target_scale": (0.3, 0.9)}),
    Case(
        "block-full",
        jm.block_mask,
        ((4, 4),),
        {"num_targets": 10, "target_scale": (0.8, 0.99), "target_aspect_ratio": (0.5, 2.0)},
    ),
    Case("spatiotemporal", jm.spatiotemporal_mask, ((8, 14, 14),), {}),
    Case("spatiotemporal-image", jm.spatiotemporal_mask, ((8, 8),), {"temporal_extent": (1, 1)}),
    Case(
        "spatiotemporal-clamped",
        jm.spatiotemporal_mask,
        ((3, 4, 40),),
        {"temporal_extent": (2, 9), "spatial_scale": (0.2, 0.9)},
    ),
    Case("multi-block", jm.multi_block_mask, ((14, 14),), {}),
    Case("multi-block-video", jm.multi_block_mask, ((3, 6, 33),), {"num_blocks": 5}),
    Case("multi-block-full", jm.multi_block_mask, ((4, 4),), {"mask_ratio": 0.99, "num_blocks": 8}),
]

JEPA = [
    Case("ijepa", jm.ijepa_masks, ((14, 14),), {}),
    Case("ijepa-reference", jm.ijepa_masks, ((16, 16),), {"sampling": "reference"}),
    Case("ijepa-overlap", jm.ijepa_masks, ((7, 40),), {"allow_overlap": True, "num_targets": 2}),
    Case(
        "ijepa-top-up",
        jm.ijepa_masks,
        ((9, 9),),
        {"num_targets": 3, "context_scale": (0.05, 0.3), "min_keep": 15},
    ),
    Case("vjepa-short", jm.vjepa_mask, ((8, 14, 14),), {}),
    Case(
        "vjepa-long", jm.vjepa_mask, ((8, 14, 14),), {"num_blocks": 2, "spatial_scale": (0.7, 0.7)}
    ),
    Case("vjepa-image", jm.vjepa_mask, ((12, 35),), {"num_blocks": 3}),
    Case(
        "vjepa-partial",
        jm.vjepa_mask,
        ((6, 8, 8),),
        {"temporal_scale": (0.2, 0.7), "spatial_scale": (0.1, 0.6), "max_temporal_keep": 0.7},
    ),
    Case("ijepa-sequence", jm.ijepa_masks, ((70,),), {}),
    Case("vjepa-sequence", jm.vjepa_mask, ((70,),), {"num_blocks": 3}),
    Case("vjepa-full", jm.vjepa_mask, ((4, 5, 5),), {"spatial_scale": (1.0, 1.0)}),
    Case("ijepa-wide", jm.ijepa_masks, ((6, 48),), {"num_targets": 3}),
    Case("vjepa-wide", jm.vjepa_mask, ((3, 6, 30),), {"spatial_scale": (0.5, 0.7)}),
]

RANDOM = [
    Case("random", jm.random_mask, ((14, 14),), {"mask_ratio": 0.75}),
    Case("random-video", jm.random_mask, ((3, 5, 7),), {"mask_ratio": 0.4}),
    Case("random-tube", jm.random_tube_mask, ((8, 14, 14),), {"mask_ratio": 0.9}),
    Case("random-cells", jm.random_mask, ((6, 8),), {"num_masked": (2, 5), "cell": (3, 2)}),
    Case("object", jm.object_mask, (7,), {"num_masked": 2}),
    Case("object-range", jm.object_mask, (8,), {"num_masked": (1, 4)}),
]

BOXES = [
    Case("box", jm.box_mask, ((9, 14),), {"num_boxes": 3, "extent": ((2, 4), (3, 5))}),
    Case(
        "box-centred",
        jm.box_mask,
        ((40,),),
        {"num_boxes": 5, "extent": ((2, 4),), "placement": "centered"},
    ),
]

FIELD = [
    Case("blockwise", jm.blockwise_mask, ((14, 14),), {"num_masked": 75}),
    Case(
        "blockwise-pair",
        jm.blockwise_mask,
        ((9, 12),),
        {"mask_ratio": (0.1, 0.5), "min_block": 4, "max_block": 30},
    ),
    Case("inverse-block", jm.inverse_block_mask, ((14, 14),), {"mask_ratio": 0.65}),
    Case(
        "inverse-block-inside", jm.inverse_block_mask, ((9, 12),), {"num_masked": 70, "roll": False}
    ),
    Case("span", jm.span_mask, ((100,),), {"mask_ratio": 0.65, "span": 10}),
    Case("span-apart", jm.span_mask, ((60,),), {"mask_ratio": 0.5, "span": 4, "overlap": False}),
    Case(
        "random-span",
        jm.random_span_mask,
        ((100,),),
        {"mask_ratio": 0.15, "mean_span": 3, "ends": "t5"},
    ),
    Case(
        "random-span-pair",
        jm.random_span_mask,
        ((60,),),
        {"mask_ratio": (0.1, 0.9), "num_spans": 5},
    ),
]

MASKS = STRATEGIES + JEPA + RANDOM + BOXES + FIELD
"""Every function that draws masks on a grid from a key."""

CLIPS = [
    Case("clip-down", jm.clip_count, (_CHECKERBOARD,), {"maximum": 20}),
    Case("clip-up", jm.clip_count, (_CHECKERBOARD,), {"minimum": 80}),
    Case("clip-among", jm.clip_count, (_CHECKERBOARD,), {"minimum": 90, "among": _LEFT_HALF}),
]


def _exact_context(key, grid):
    target = jm.block_mask(key, grid)
    return jm.token_indices(~target, size=150)


def _taken(key, grid):
    tokens = np.arange(2.0 * np.prod(grid), dtype=np.float32).reshape(-1, 2)
    return jm.take_tokens(tokens, _exact_context(key, grid))


def _put(key, grid):
    tokens = np.arange(2.0 * np.prod(grid), dtype=np.float32).reshape(-1, 2)
    indices = jm.token_indices(jm.block_mask(key, grid), size=20, key=jax.random.clone(key))
    return jm.put_tokens(jm.take_tokens(tokens, indices), indices, fill=np.float32(-1))


def _own_tokens(key, grid):
    """Tokens of each sample's own, which explicit axes shard as they shard the keys."""
    tokens = jax.random.uniform(jax.random.clone(key), (math.prod(grid), 2), np.float32)
    indices = jm.token_indices(jm.block_mask(key, grid), size=20, key=jax.random.clone(key))
    taken = jm.take_tokens(tokens, indices)
    return taken, jm.put_tokens(taken, indices, fill=-1)


def _distance(key, grid):
    return jm.squared_distance(jm.block_mask(key, grid))


def _counted(key, grid):
    """Counts that are traced, one for each sample, some of them out of range."""
    tokens = math.prod(grid)
    count = jax.random.randint(jax.random.clone(key), (), -2, tokens + 2, np.int32)
    mask = jm.random_mask(jax.random.clone(key), grid, num_masked=count)
    clipped = jm.clip_count(jax.random.clone(key), mask, minimum=count // 2, maximum=count // 2)
    return mask, clipped, jm.blockwise_mask(key, grid, num_masked=count, min_block=2)


def _sides(key, grid):
    """The true sides of a sample, traced, some of them out of range."""
    words = jax.random.bits(jax.random.clone(key), (len(grid),), np.uint32)
    return (words % np.uint32(max(grid) + 2)).astype(np.int32)


def _sized_images(key, grid):
    sides = _sides(key, grid)
    clones = [jax.random.clone(key) for _ in range(4)]
    true = jm.inside(grid, sides)
    checkerboard = np.indices(grid).sum(0) % 2 == 0
    return (
        true,
        jm.ijepa_masks(clones[0], grid, min_keep=8, within=sides),
        jm.vjepa_mask(clones[1], grid, num_blocks=3, within=sides),
        jm.random_mask(clones[2], grid, mask_ratio=0.6, within=sides, among=checkerboard),
        jm.box_mask(clones[3], grid, num_boxes=3, extent=((1, 3), None), within=sides),
    )


def _sized_sequences(key, grid):
    sides = _sides(key, grid)
    clones = [jax.random.clone(key) for _ in range(3)]
    spans = {"mask_ratio": 0.5, "span": 4, "within": sides}
    return (
        jm.span_mask(clones[0], grid, **spans),
        jm.span_mask(clones[1], grid, overlap=False, **spans),
        jm.ijepa_masks(clones[2], grid, num_targets=2, within=sides),
    )


def _sized_spans(key, grid):
    """The count, the number of spans and the length are traced, some of them out of range."""
    (length,) = _sides(key, grid)
    count, spans = length - 3, length // 4
    options = {"num_masked": count, "within": (length,)}
    return (
        jm.random_span_mask(jax.random.clone(key), grid, num_spans=spans, ends="t5", **options),
        jm.random_span_mask(jax.random.clone(key), grid, mean_span=2.4, **options),
    )


def _sized_clips(key, grid):
    options = {"spatial_scale": (0.3, 0.9), "max_temporal_keep": 0.7}
    return jm.vjepa_mask(key, grid, within=_sides(key, grid), **options)


def _top(key, grid):
    scores = jax.random.bits(key, grid, np.uint32) % np.uint32(9)
    return jm.top_mask(scores, num_masked=sum(grid), among=scores > np.uint32(1))


def _balanced(key, samples, rows):
    """An order of counts of the key's own, many of them equal."""
    words = jax.random.bits(jax.random.clone(key), (samples,), np.uint32)
    return jm.balanced_order(key, (words % np.uint32(9)).astype(np.int32), rows=rows)


SIZES = [
    Case("sized-images", _sized_images, ((9, 12),), {}),
    Case("sized-sequences", _sized_sequences, ((50,),), {}),
    Case("sized-clips", _sized_clips, ((4, 5, 6),), {}),
    Case("sized-spans", _sized_spans, ((50,),), {}),
    Case("top", _top, ((9, 12),), {}),
]

TOKENS = [
    Case("traced-counts", _counted, ((6, 7),), {}),
    Case("put-tokens", _put, ((14, 14),), {}),
    Case("squared-distance", _distance, ((14, 14),), {}),
    Case("balanced-order", _balanced, (30, 6), {}),
    Case("token-indices", _exact_context, ((14, 14),), {}),
    Case("take-tokens", _taken, ((14, 14),), {}),
    Case("own-tokens", _own_tokens, ((14, 14),), {}),
]

ALL = MASKS + CLIPS + SIZES + TOKENS
"""Every function that users call inside a jitted step, as a function of one key."""


def first_of_each_function(cases):
    return list({case.function: case for case in reversed(cases)}.values())


_CALLED_BY_OWN_TOKENS = ("token-indices", "take-tokens", "put-tokens")
_CALLED_BY_TRACED_COUNTS = ("random", "clip-down", "blockwise")
_CALLED_BY_OTHERS = _CALLED_BY_OWN_TOKENS + _CALLED_BY_TRACED_COUNTS

FIRST = [case for case in first_of_each_function(ALL) if case.name not in _CALLED_BY_OTHERS]
"""Calls of every function, for programs that would compile too long with all cases."""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def first_fast(settings, fast):
    """Leaves the first settings to every run of the suite, and marks the others slow."""
    return [*settings[:fast], *(slow(*setting) for setting in settings[fast:])]


def first_of_each_fast(cases):
    """Leaves the first case of each function to every run, and marks the others slow."""
    first = first_of_each_function(cases)
    return [case if case in first else slow(case) for case in cases]
