"""The one table of expected masks: a digest of what each case draws from the same few keys.

Whatever the masks are drawn under, their digests are compared with `digests.json`.
"""

import hashlib
import json
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

TABLE = Path(__file__).parent / "digests.json"
NUM_KEYS = 9


def fixed_keys(seed=0):
    """The keys of the table, as one array; the seed may be traced."""
    return jnp.append(jax.random.split(jax.random.key(seed), NUM_KEYS - 1), jax.random.key(2**31))


def keys_for(num_devices, seed=0):
    """The keys of the table, and the first ones again until they divide among the devices."""
    return fixed_keys(seed)[np.arange(-(-NUM_KEYS // num_devices) * num_devices) % NUM_KEYS]


def drawn(cases, keys):
    """The masks of each case: an axis of keys, then the mask's own."""
    return {case.name: jax.vmap(case)(jax.random.clone(keys)) for case in cases}


def digest(masks):
    """Digests what was drawn from each key in turn: types, shapes and packed values."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(masks):
        array = np.asarray(leaf)
        values = np.packbits(array) if array.dtype == bool else array
        sha.update(f"{array.dtype}{array.shape}".encode() + values.tobytes())
    return sha.hexdigest()[:16]


def stack(masks):
    """Stacks the masks of each key of the table."""
    return jax.tree.map(lambda *masks: np.stack(masks), *masks)


def by_key(masks):
    """Splits stacked masks into those of each key of the table."""
    masks = jax.tree.map(np.asarray, masks)
    return [jax.tree.map(operator.itemgetter(i), masks) for i in range(NUM_KEYS)]


def assert_digests(drawn):
    """Asserts that the masks, stacked over the keys, are those of the table; names what differs."""
    table = json.loads(TABLE.read_text())
    assert drawn
    differing = [name for name, masks in drawn.items() if digest(by_key(masks)) != table.get(name)]
    assert not differing, f"cases whose masks are not those of {TABLE.name}: {differing}"
