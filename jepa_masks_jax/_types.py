"""The types that functions return inside `jit`, and how `jax.export` stores them."""

import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import export

Node = TypeVar("Node")


def _storable(node: type[Node]) -> type[Node]:
    """Registers a named tuple or a pytree, whose static fields JSON can hold, for `jax.export`."""
    name = f"jepa_masks_jax.{node.__name__}"
    try:
        if issubclass(node, tuple):
            export.register_namedtuple_serialization(node, serialized_name=name)
        else:
            export.register_pytree_node_serialization(
                node,
                serialized_name=name,
                serialize_auxdata=lambda static: json.dumps(static).encode(),
                # Version 0.4.0 stored no `per_row`: it is 1.
                deserialize_auxdata=lambda stored: (*json.loads(stored), 1)[:2],
            )
    except ValueError as error:
        # A module that is reloaded finds its names taken: the types of its first import keep them.
        if "Duplicate" not in str(error):
            raise
    return node


@_storable
class ContextTargetMasks(NamedTuple):
    """A context mask and its target masks."""

    context: jax.Array
    """bool[*grid]"""
    targets: jax.Array
    """bool[num_targets, *grid]"""


@_storable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TokenIndices:
    """An index list: the tokens of one sample, or of the samples that share a row.

    It is padded to a static length. A list is a row of one sample. It unpacks as
    `indices, valid`. After `jax.vmap` the arrays have a leading batch axis, such as
    `indices: int32[B, size]`, while `num_tokens` and `per_row` are still one int each.
    `help(jepa_masks_jax)` draws the chain from a mask to tokens and back.
    """

    indices: jax.Array
    """int32[size], ascending in row-major order; padding entries equal `num_tokens`"""
    valid: jax.Array
    """bool[size], False at the padding, which comes last"""
    num_tokens: int = dataclasses.field(metadata={"static": True})
    """the token count of the grid, for a row that of all its samples together, static"""
    per_row: int = dataclasses.field(default=1, metadata={"static": True})
    """how many samples share the list, static"""

    @property
    def sample(self) -> jax.Array:
        """Which sample of the row each entry belongs to: int32[size].

        Ascending, and `per_row` at the padding.
        """
        return _sample_and_place(self)[0]

    @property
    def place(self) -> jax.Array:
        """Which token of its sample's grid each entry is, 0 at the padding: int32[size]."""
        return _sample_and_place(self)[1]

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.indices, self.valid))


@jax.jit
def _sample_and_place(listed: TokenIndices) -> tuple[jax.Array, jax.Array]:
    tokens = listed.num_tokens // listed.per_row
    indices, valid = map(jnp.asarray, listed)
    sample = jnp.where(valid, indices // tokens, listed.per_row)
    return sample, jnp.where(valid, indices % tokens, 0)
