"""Random words, and what is made of them: integers, real numbers, entries of a table.

The masks of every key depend on how many words a strategy takes and in which order, and on
`finest_unit`. So they are as public as names: a change breaks every user's masks, and the digests
in `tests/digests.json` notice it.

If a count of tokens or spans is sampled, it has a word of its own. `random_mask` takes it behind
the words of the sample's own tokens, `span_mask` behind those of its starts, `blockwise_mask` last,
and `random_span_mask` from the seam before the first token, where nothing is cut.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _meshes

_INT32_BITS = 31


def random_words(key: jax.Array, count: int) -> jax.Array:
    """Returns uint32[count]; with threefry keys a word does not depend on how many follow it.

    XLA compiles and runs rows of 16 words faster than shorter ones.
    """
    return jax.random.bits(key, (max(count, 16),), jnp.uint32)[:count]


def mulhi(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the high word of the 64-bit product of two uint32."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    middle = a_high * b_low + (a_low * b_low >> 16)
    carry = (a_low * b_high + (middle & 0xFFFF)) >> 16
    return a_high * b_high + (middle >> 16) + carry


def below(words: jax.Array, n: Any) -> jax.Array:
    """Makes int32 uniform in `[0, n)`."""
    return mulhi(words, jnp.asarray(n).astype(jnp.uint32)).astype(jnp.int32)


def between(words: jax.Array, minimum: Any, maximum: Any) -> jax.Array:
    """Makes int32 uniform in `[minimum, maximum]`."""
    return minimum + below(words, maximum - minimum + 1)


class Uniform(NamedTuple):
    """A real number, uniform over `first / unit`, `(first + 1) / unit` and so on: `steps` of them.

    It is sampled in steps of `1 / unit`, and so is an integer. The fields are ints, or int32[] if
    they depend on a traced size; in a plan, arrays of all sizes.
    """

    first: Any
    steps: Any
    unit: Any

    def sample(self, words: jax.Array) -> jax.Array:
        """Samples the number, counted in steps: int32."""
        return self.first + below(words, self.steps)

    def sample_floor(self, words: jax.Array) -> jax.Array:
        """Samples the number, rounded down: int32."""
        return lax.div(self.sample(words), jnp.int32(self.unit))

    @property
    def last(self) -> Any:
        """The largest number that is sampled, in steps."""
        return self.first + self.steps - 1

    @property
    def floors(self) -> tuple[Any, Any]:
        """The minimum and the maximum of `sample_floor`."""
        return self.first // self.unit, self.last // self.unit


def finest_unit(number: Any) -> Any:
    """Returns the largest power of two of which `number + 1` times stays below 2**31."""
    _, bits = np.frexp(number + 1)
    return np.left_shift(1, _INT32_BITS - bits)


def uniform(low: Any, high: Any) -> Uniform:
    """Returns the distribution over `[low, high)` in the finest steps, of `low` if none fits."""
    unit = finest_unit(np.floor(high))
    first, last = np.floor(low * unit), np.floor(high * unit)
    return Uniform(first, np.maximum(last - first, 1), unit)


def entries(words: jax.Array, table: np.ndarray) -> jax.Array:
    """Picks uniformly random entries of a table: uint32[*k] and int32[n] to int32[*k]."""
    return _meshes.gather(table, below(words, len(table)))
