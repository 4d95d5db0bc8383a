"""Programs stay flat: no loops, and sorts and scans only where a subset or a list is picked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow

import jepa_masks_jax as jm

_COUNTED = ("sort", "scan", "scatter")
_LONGEST_SCAN = 48


def equations(jaxpr, platforms=()):
    """Every equation with the platforms of the branches that it stands in, however nested."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation, platforms
        branches_of = equation.params.get("branches_platforms")
        for value in equation.params.values():
            values = value if isinstance(value, tuple | list) else (value,)
            inner = [one for one in values if hasattr(getattr(one, "jaxpr", one), "eqns")]
            if branches_of and len(inner) == len(branches_of):
                for one, branch in zip(inner, branches_of, strict=True):
                    name = "default" if branch is None else "+".join(branch)
                    yield from equations(one, (*platforms, name))
            else:
                for one in inner:
                    yield from equations(one, platforms)


_MASK = np.indices((4, 6)).sum(0) % 2 == 0
_GRID = (14, 14)
_BOXES = {
    "block": lambda key: jm.block_mask(key, _GRID),
    "block-full": lambda key: jm.block_mask(key, (4, 4), num_targets=9, target_scale=(0.9, 1)),
    "spatiotemporal": lambda key: jm.spatiotemporal_mask(key, (8, *_GRID)),
    "multi-block": lambda key: jm.multi_block_mask(key, _GRID),
    "ijepa": lambda key: jm.ijepa_masks(key, _GRID),
    "ijepa-reference": lambda key: jm.ijepa_masks(key, _GRID, sampling="reference"),
    "ijepa-overlap": lambda key: jm.ijepa_masks(key, _GRID, allow_overlap=True),
    "vjepa": lambda key: jm.vjepa_mask(key, (8, *_GRID)),
    "vjepa-long": lambda key: jm.vjepa_mask(
        key, (8, *_GRID), num_blocks=2, spatial_scale=(0.7, 0.7)
    ),
    "vjepa-partial": lambda key: jm.vjepa_mask(key, (8, 9, 9), temporal_scale=(0.2, 0.7)),
    "ijepa-sequence": lambda key: jm.ijepa_masks(key, (70,)),
    "box": lambda key: jm.box_mask(key, _GRID, num_boxes=40, extent=(2, None)),
    "inverse-block": lambda key: jm.inverse_block_mask(key, _GRID, mask_ratio=0.65),
}
_SUBSETS = {
    "random": lambda key: jm.random_mask(key, _GRID, mask_ratio=0.7),
    "random-tube": lambda key: jm.random_tube_mask(key, (8, *_GRID), mask_ratio=0.7),
    "random-cells": lambda key: jm.random_mask(key, _GRID, num_masked=3, cell=(7, 2)),
    "span": lambda key: jm.span_mask(key, (100,), mask_ratio=0.5, span=10),
    "object": lambda key: jm.object_mask(key, 7),
    "object-range": lambda key: jm.object_mask(key, 7, num_masked=(1, 4)),
    "clip": lambda key: jm.clip_count(key, jnp.asarray(_MASK), minimum=6, maximum=9),
    "clip-among": lambda key: jm.clip_count(
        key, jnp.asarray(_MASK), minimum=14, among=jnp.asarray(~_MASK)
    ),
}


def _indices(key):
    del key
    return tuple(jm.token_indices(jnp.asarray(_MASK), size=9))


def structure(function, *, batched=False):
    """How many sorts, scans and scatters stand outside all branches, and in each platform's."""
    example = jax.random.key(0)
    if batched:
        function, example = jax.vmap(function), jax.random.split(example, 3)
    counts = {}
    for equation, platforms in equations(jax.make_jaxpr(function)(example)):
        name = equation.primitive.name
        assert name not in ("while", "while_loop")
        if name == "scan":
            assert equation.params["length"] <= _LONGEST_SCAN
        for platform in platforms or ("outside",):
            counts.setdefault(platform, dict.fromkeys(_COUNTED, 0))
        for counted in _COUNTED:
            if name == counted or name.startswith(f"{counted}-"):
                counts[(platforms or ("outside",))[-1]][counted] += 1
    return counts


_NONE = dict.fromkeys(_COUNTED, 0)


@pytest.mark.parametrize("batched", [slow(False), True], ids=["one", "batch"])
@pytest.mark.parametrize("name", _BOXES)
def test_masks_of_boxes_have_no_loops_sorts_or_scatters(name, batched):
    assert structure(_BOXES[name], batched=batched) == {"outside": _NONE}


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("name", _SUBSETS)
def test_subsets_are_two_sorts_or_on_a_cpu_two_short_scans(name, batched):
    assert structure(_SUBSETS[name], batched=batched) == {
        "outside": _NONE,
        "default": _NONE | {"sort": 2},
        "cpu": _NONE | {"scan": 2},
    }


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
def test_blockwise_masks_are_one_scan_over_the_tries_and_a_subset(batched):
    assert structure(lambda key: jm.blockwise_mask(key, _GRID, num_masked=75), batched=batched) == {
        "outside": _NONE | {"scan": 1},
        "default": _NONE | {"sort": 2},
        "cpu": _NONE | {"scan": 2},
    }


def test_token_indices_are_one_sort_on_a_tpu_only():
    counts = structure(_indices)
    assert counts["tpu"] == _NONE | {"sort": 1}
    assert (counts["default"]["sort"], counts["default"]["scan"]) == (0, 0)
    assert counts["outside"] == _NONE


def test_the_count_of_primitives_sees_into_loops_and_branches():
    def function(key):
        x = jax.random.bits(key, (5,))
        x = jax.lax.cond(x[0] > 3, jnp.sort, lambda x: x, x)
        return jax.jit(lambda x: jax.lax.scan(lambda c, y: (c, jnp.sort(x) + y), 0, x))(x)

    assert structure(function) == {"outside": _NONE | {"sort": 2, "scan": 1}}
    with pytest.raises(AssertionError):
        structure(lambda key: jax.lax.while_loop(lambda i: i < 3, lambda i: i + 1, 0))
