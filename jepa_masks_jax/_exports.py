"""What `jax.export` stores of the package's types, so that exported functions may return them."""

import contextlib
import json
from typing import TypeVar

from jax import export

Node = TypeVar("Node")


def storable(node: type[Node]) -> type[Node]:
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
