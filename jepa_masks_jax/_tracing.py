"""What JAX asks of traced code: one way to jit, and constants that vary over a mesh."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Jits a function of positional arguments: arrays are traced, all else is static.

    A static argument is hashable. An argument is an array if it is a pytree of nothing but arrays.
    """

    def call(static: tuple[Any, ...], arrays: tuple[Any, ...]) -> Any:
        return function(*(s if a is None else a for s, a in zip(static, arrays, strict=True)))

    call.__name__ = function.__name__
    jitted = jax.jit(call, static_argnums=0)

    @functools.wraps(function)
    def with_any_arguments(*args: Any) -> Any:
        # Objects that JAX takes for arrays would be static, and their values with them.
        args = tuple(jnp.asarray(a) if hasattr(a, "__jax_array__") else a for a in args)
        is_array = [_is_array(arg) for arg in args]
        static = tuple(None if traced else arg for arg, traced in zip(args, is_array, strict=True))
        arrays = tuple(arg if traced else None for arg, traced in zip(args, is_array, strict=True))
        return jitted(static, arrays)

    return with_any_arguments  # type: ignore[return-value]


def _is_array(arg: Any) -> bool:
    leaves = jax.tree.leaves(arg)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)


def vary_as(words: jax.Array, constant: Any) -> jax.Array:
    """Returns a constant that varies over the devices of a mesh as the words do.

    `shard_map` takes a constant for the same on every device, and refuses it as the start of a
    carry that varies.
    """
    constant = jnp.asarray(constant)
    return constant + (words.reshape(-1)[0] & 0).astype(constant.dtype)


def gather(table: np.ndarray, index: jax.Array) -> jax.Array:
    """Returns entries of a constant table: int32[n, *m] and int32[*k] to int32[*k, *m].

    Explicit axes of a mesh refuse to gather from a constant. There the table is made to vary as the
    index does, which elsewhere would copy it for every sample.
    """
    constant = jnp.asarray(table)
    is_explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    return (vary_as(index, constant) if is_explicit else constant)[index]
