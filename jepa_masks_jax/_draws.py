"""Random words, and whole numbers made of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_draws(key: jax.Array, count: int) -> jax.Array:
    """Draws uint32[count]; with threefry keys a draw does not depend on how many follow it.

    XLA compiles and runs rows of 16 faster than shorter ones.
    """
    return jax.random.bits(key, (max(count, 16),), jnp.uint32)[:count]


def whole_below(draws: jax.Array, n: Any) -> jax.Array:
    """Makes int32 numbers uniform in `[0, n)`: the high word of the 64-bit product `draws * n`."""
    n = jnp.asarray(n).astype(jnp.uint32)
    draw_high, draw_low, n_high, n_low = draws >> 16, draws & 0xFFFF, n >> 16, n & 0xFFFF
    middle = draw_high * n_low + (draw_low * n_low >> 16)
    carry = (draw_low * n_high + (middle & 0xFFFF)) >> 16
    return (draw_high * n_high + (middle >> 16) + carry).astype(jnp.int32)


def entry_of(draws: jax.Array, table: np.ndarray) -> jax.Array:
    """Picks uniformly random entries of a table: int32[n] and uint32[*k] to int32[*k]."""
    # Made of the draws, because a mesh with explicit axes refuses to gather from a constant.
    own_table = jnp.asarray(table) + (draws.reshape(-1)[0] & 0).astype(jnp.int32)
    return own_table[whole_below(draws, len(table))]


def whole_between(draws: jax.Array, least: int, most: int) -> jax.Array:
    """Makes int32 numbers uniform in `[least, most]`."""
    return least + whole_below(draws, most - least + 1)
