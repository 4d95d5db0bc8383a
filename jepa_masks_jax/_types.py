"""The types that functions return from inside `jit`, and what `jax.export` stores of them."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
from jax import export

Node = TypeVar("Node")


def _storable(node: type[Node]) -> type[Node]:
    """Registers a named tuple or a pytree, whose static fields JSON can hold, for `jax.export`."""
    name = f"jepa_masks_jax.{node.__name__}"
    # A module that is reloaded finds its names taken: the types of its first import keep them.
    with contextlib.suppress(ValueError):
        if issubclass(node, tuple):
            export.register_namedtuple_serialization(node, serialized_name=name)
        else:
            export.register_pytree_node_serialization(
                node,
                serialized_name=name,
                serialize_auxdata=lambda static: json.dumps(static).encode(),
                deserialize_auxdata=json.loads,
            )
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
    """An index list: the tokens of a mask, padded to a static length.

    Unpacks as `indices, valid`. After `jax.vmap` the fields have a leading batch axis, such as
    `indices: int32[B, size]`, and `num_tokens` is still one int. `help(jepa_masks_jax)` draws the
    chain from a mask to tokens and back.
    """

    indices: jax.Array
    """int32[size], ascending in row-major order; padding entries equal `num_tokens`"""
    valid: jax.Array
    """bool[size], False at the padding, which comes last"""
    num_tokens: int = dataclasses.field(metadata={"static": True})
    """the token count of the mask's grid, static"""

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.indices, self.valid))
