"""The masks of a key stay the same from one version to the next, of this library and of JAX.

`digests.json` holds a digest of every case's masks for a few keys, and `data/block_mask.export` the
first case's function as jax 0.7.2 exported it. A digest that changes is a change for every user.
Both files are made anew, the second only under jax 0.7.2, by

    python tests/test_reproducibility.py
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import ALL
from jax import export

DIGESTS = Path(__file__).parent / "digests.json"
EXPORTED = Path(__file__).parent / "data" / "block_mask.export"
OLDEST_JAX = "0.7.2"


def fixed_keys():
    return [*jax.random.split(jax.random.key(0), 8), jax.random.key(2**31)]


def digest(masks):
    """Digests the outputs for each key in turn: their types, shapes and packed values."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(masks):
        array = np.asarray(leaf)
        values = np.packbits(array) if array.dtype == bool else array
        sha.update(f"{array.dtype}{array.shape}".encode() + values.tobytes())
    return sha.hexdigest()[:16]


def digest_case(case):
    return digest([case(key) for key in fixed_keys()])


def drawn_table():
    return {case.name: digest_case(case) for case in ALL}


@pytest.fixture(scope="module")
def table_of_a_user():
    """Digests of a program of its own, compiled with every optimisation."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, __file__, "print"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_table_has_every_case():
    assert json.loads(DIGESTS.read_text()).keys() == {case.name for case in ALL}


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_masks_are_those_of_the_table(case, table_of_a_user):
    assert table_of_a_user[case.name] == json.loads(DIGESTS.read_text())[case.name]


@pytest.fixture
def old_exports_load():
    """jax 0.12 loads what jax 0.7 exported only if it is told to."""
    option = "jax_export_deserialize_expired_versions"
    if hasattr(jax.config, option):
        jax.config.update(option, True)
        yield
        jax.config.update(option, False)
    else:
        yield


@pytest.mark.filterwarnings("ignore:Exported being deserialized seems to be older")
def test_a_function_exported_by_the_oldest_jax_draws_the_masks_of_the_table(old_exports_load):
    loaded = export.deserialize(bytearray(EXPORTED.read_bytes()))
    masks = [loaded.call(key) for key in fixed_keys()]
    assert digest(masks) == json.loads(DIGESTS.read_text())[ALL[0].name]


def write_table_and_export():
    DIGESTS.write_text(json.dumps(drawn_table(), indent=2) + "\n")
    if jax.__version__ == OLDEST_JAX:
        EXPORTED.parent.mkdir(exist_ok=True)
        draw = jax.jit(lambda key: ALL[0](key))
        exported = export.export(draw, platforms=("cpu", "cuda", "tpu"))(jax.random.key(0))
        EXPORTED.write_bytes(exported.serialize())
    else:
        print(f"{EXPORTED.name} is left as it was: only jax {OLDEST_JAX} makes it")


if __name__ == "__main__":
    if sys.argv[1:] == ["print"]:
        print(json.dumps(drawn_table()))
    else:
        write_table_and_export()
