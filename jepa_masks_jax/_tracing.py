"""One way to jit a function that is made anew at every call, and plans made while tracing."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _check, _meshes

Function = TypeVar("Function", bound=Callable[..., Any])
Plan = TypeVar("Plan")


def jit(function: Function) -> Function:
    """Jits a function that a strategy makes at every call, without compiling it at every call.

    What the function closes over is static. An argument is traced if it is a pytree of nothing but
    arrays, and else static too. JAX knows a function by its identity; here functions of the same
    code with equal static values of equal types are one program.

    Raises:
        TypeError: if the function has default arguments, or if a static value is not a number, a
            string, None or a tuple of such.
    """
    code, cells = function.__code__, function.__closure__ or ()
    name = code.co_qualname.partition(".")[0]
    if function.__defaults__ or function.__kwdefaults__:
        raise TypeError(f"the inner function of {name} must not have default arguments")
    values = {key: cell.cell_contents for key, cell in zip(code.co_freevars, cells, strict=True)}
    closed_over = tuple(_static(f"{key} in {name}", value) for key, value in values.items())

    def call(*args: Any) -> Any:
        args = tuple(jnp.asarray(arg) if hasattr(arg, "__jax_array__") else arg for arg in args)
        places = tuple(i for i, arg in enumerate(args) if not _holds_arrays(arg))
        passed = tuple(_static(f"argument {i} in {name}", args[i]) for i in places)
        program = _program(function.__module__, code, closed_over, places, passed)
        if not program:
            function.__name__ = name  # what a profiler shows
            program.append(jax.jit(function, static_argnums=places))
        return program[0](*args)

    return call  # type: ignore[return-value]


@functools.lru_cache(maxsize=4096)  # as many as JAX keeps
def _program(*known_by: Any) -> list[Callable[..., Any]]:
    """Returns a list for the one program that is known by these values, empty at first."""
    return []


def _static(name: str, value: Any) -> Any:
    """Returns a value with its types, because 1, 1.0 and True are equal and yet three programs."""
    if isinstance(value, tuple):
        return type(value), *(_static(name, item) for item in value)
    if not (value is None or isinstance(value, int | float | str | bytes)):
        raise TypeError(
            f"{name} must be a number, a string, None or a tuple of such, which are static, got "
            f"{_check.brief(value)}; pass an array as an argument"
        )
    return type(value), value


def _holds_arrays(arg: Any) -> bool:
    leaves = jax.tree.leaves(arg)
    return bool(leaves) and all(map(_check.is_array, leaves))


def planned(plan: Callable[..., Plan], size: Any, *options: Any, largest: int = 0) -> Plan:
    """Returns `plan(size, *options)` with ints for its numbers, or int32[] if the size is traced.

    `plan` takes an array of sizes, int64[n], and returns a pytree of such arrays and numbers. It
    runs in NumPy while the strategy is traced. For a traced size, which needs the `largest`,
    it plans all sizes up to it, and the size's row is gathered; the row of size 0 is that of 1.
    """
    is_static = isinstance(size, int)
    sizes = np.array([size]) if is_static else np.maximum(np.arange(largest + 1), 1)
    columns, structure = jax.tree.flatten(plan(sizes, *options))
    columns = [np.broadcast_to(column, sizes.shape).astype(np.int32) for column in columns]
    table = np.stack(columns, axis=1)
    row = table[0].tolist() if is_static else list(_meshes.gather(table, size))
    return jax.tree.unflatten(structure, row)
