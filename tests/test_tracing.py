"""The wrapper that finds a program by the code and the static values of a function."""

import ast
import gc
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import no_trace

import jepa_masks_jax
from jepa_masks_jax import _counts, _tracing

ONE = jnp.ones((), jnp.int32)


def closing_over(static):
    """A function that is made anew at every call, and says which program was traced for it."""

    @_tracing.jit
    def traced(number):
        return number, {repr(static): number}

    return traced


def passing(static):
    @_tracing.jit
    def traced(number, static):
        return number, {repr(static): number}

    return lambda number: traced(number, static)


EQUAL = [1, 1.0, True, (1, 2), (1.0, 2), (1, 2.0), (True, 2), ((1,), 2), ((True,), 2)]


@pytest.mark.parametrize("made", [closing_over, passing])
def test_equal_values_of_other_types_are_other_programs_however_deep(made):
    for static in [*EQUAL, *reversed(EQUAL), "1", b"1", None, (), (None,)]:
        _, names = made(static)(ONE)
        assert list(names) == [repr(static)]
    with no_trace():
        for static in EQUAL:
            made(static)(ONE)


def test_ratios_and_counts_are_never_equal():
    for ratio in (1, 1.0, (0.5, 1.0)):
        with pytest.raises(ValueError, match="mask_ratio"):
            _counts.masked(ratio, None, 9)
    assert [type(end) for end in _counts.masked(None, (1, 2), 9)] == [int, int]


@pytest.mark.parametrize(
    "value",
    [np.ones(2), np.float32(1), ONE, (1, (ONE,)), abs, [1], {"a": 1}, (1, [2]), {1}, 1j],
    ids=repr,
)
def test_what_is_not_static_is_refused_by_name_before_any_look_up(value):
    misses = _tracing._program.cache_info().misses
    with pytest.raises(TypeError, match=r"^static in closing_over must be a number") as caught:
        closing_over(value)
    assert "\n" not in str(caught.value)
    assert _tracing._program.cache_info().misses == misses


def test_a_traced_value_is_refused_by_name():
    with pytest.raises(TypeError, match="static in closing_over must be"):
        jax.eval_shape(closing_over, ONE)


def test_defaults_are_refused():
    def positional(number, factor=2):
        return number * factor

    def by_keyword(number, *, factor=2):
        return number * factor

    for function in (positional, by_keyword):
        with pytest.raises(TypeError, match="default arguments"):
            _tracing.jit(function)


def test_no_array_is_held_alive():
    array = np.ones(3, np.float32)
    gone = weakref.ref(array)
    closing_over("held")(array)
    del array
    gc.collect()
    assert gone() is None


def jitted(tree):
    """The functions inside functions that are jitted, each with the statement after it."""
    for outer in ast.walk(tree):
        body = getattr(outer, "body", None)
        if not isinstance(outer, ast.FunctionDef):
            continue
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.FunctionDef) and statement.decorator_list:
                yield statement, following


def test_the_call_is_returned_right_after_the_function_so_that_no_variable_changes_between():
    root, found = Path(jepa_masks_jax.__file__).parent, []
    for path in root.rglob("*.py"):
        for function, following in jitted(ast.parse(path.read_text())):
            if ast.unparse(function.decorator_list[0]) != "_tracing.jit":
                continue
            assert isinstance(following, ast.Return), f"{path.name}: {function.name}"
            assert ast.unparse(following.value.func) == function.name
            found.append(path.name)
    assert {"vjepa.py", "ijepa.py", "random.py", "_tokens.py", "_rows.py"} <= set(found)
