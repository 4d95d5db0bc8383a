"""What the devices of a mesh ask of traced code: constants that vary as the arrays beside them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType


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
