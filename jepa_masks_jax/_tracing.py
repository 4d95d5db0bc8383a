"""What JAX asks of traced code: one way to jit, plans made while tracing, shardings that agree."""

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from jepa_masks_jax import _check

Function = TypeVar("Function", bound=Callable[..., Any])
Plan = TypeVar("Plan")


def jit(function: Function) -> Function:
    """Jits a function, also one that is made anew at every call of a strategy.

    What the function closes over is static, and so must be hashable: functions of the same code
    that close over equal values are one program. A positional argument is traced if it is a pytree
    of nothing but arrays, and else static too.
    """
    closed_over = tuple(cell.cell_contents for cell in function.__closure__ or ())
    programs = _programs(function.__code__, closed_over)

    def call(*args: Any) -> Any:
        args = tuple(jnp.asarray(arg) if hasattr(arg, "__jax_array__") else arg for arg in args)
        static = tuple(i for i, arg in enumerate(args) if not _holds_arrays(arg))
        if static not in programs:
            function.__name__ = function.__qualname__.partition(".")[0]  # what a profiler shows
            programs[static] = jax.jit(function, static_argnums=static)
        return programs[static](*args)

    return call  # type: ignore[return-value]


@functools.lru_cache(maxsize=4096)  # as many as JAX keeps
def _programs(code: types.CodeType, closed_over: tuple[Any, ...]) -> dict[Any, Callable[..., Any]]:
    """Returns the jitted functions of one code and what it closes over, by their static places."""
    if any(_holds_arrays(value) or callable(value) for value in closed_over):
        raise TypeError(f"{code.co_qualname} must not close over an array or a function")
    return {}


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
    row = table[0].tolist() if is_static else list(gather(table, size))
    return jax.tree.unflatten(structure, row)


def vary_as(constant: Any, *arrays: jax.Array) -> jax.Array:
    """Returns a constant that varies over the devices of a mesh as the arrays do.

    `shard_map` takes a constant for the same on every device. It refuses one as the start of a
    carry that varies, and as an operand beside one that does. XLA drops what is added here.
    """
    constant = jnp.asarray(constant)
    for array in arrays:
        constant += (array.reshape(-1)[0] & 0).astype(constant.dtype)
    return constant


def gather(table: np.ndarray, index: jax.Array) -> jax.Array:
    """Returns entries of a constant table: int32[n, *m] and int32[*k] to int32[*k, *m].

    Explicit axes of a mesh refuse to gather from a constant. There the table is made to vary as the
    index does, which elsewhere would copy it for every sample.
    """
    is_explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    constant = jnp.asarray(table)
    return (vary_as(constant, index) if is_explicit else constant)[index]
