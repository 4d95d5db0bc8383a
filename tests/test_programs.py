"""Programs stay flat: no loops, and sorts and scans only where a subset or a list is picked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, slow

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


def named(names):
    cases = {case.name: case for case in ALL}
    return [cases[name] for name in names.split()]


_BOXES = named(
    "block block-full spatiotemporal multi-block ijepa ijepa-reference ijepa-overlap vjepa-short "
    "vjepa-long vjepa-partial ijepa-sequence box inverse-block"
)
_SUBSETS = named("random random-tube random-cells span object object-range clip-down clip-among")
_MASK = np.indices((4, 6)).sum(0) % 2 == 0


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
@pytest.mark.parametrize("case", _BOXES, ids=repr)
def test_masks_of_boxes_have_no_loops_sorts_or_scatters(case, batched):
    assert structure(case, batched=batched) == {"outside": _NONE}


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("case", _SUBSETS, ids=repr)
def test_subsets_are_two_sorts_or_on_a_cpu_two_short_scans(case, batched):
    assert structure(case, batched=batched) == {
        "outside": _NONE,
        "default": _NONE | {"sort": 2},
        "cpu": _NONE | {"scan": 2},
    }


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
def test_blockwise_masks_are_one_scan_over_the_tries_and_a_subset(batched):
    (blockwise,) = named("blockwise")
    assert structure(blockwise, batched=batched) == {
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
