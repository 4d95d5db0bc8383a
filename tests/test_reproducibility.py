"""The masks of a key stay the same from one version to the next, of this library and of JAX.

`digests.json` holds a digest of every case's masks for a few keys, and `data/block_mask.export` the
first case's function as the oldest supported JAX exported it. A digest that changes is a change for
every user. Both files are made anew, the second only under that version of JAX, by

    python tests/test_reproducibility.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from cases import ALL
from digests import TABLE, assert_digests, by_key, digest, fixed_keys, stack
from jax import export

EXPORTED = Path(__file__).parent / "data" / "block_mask.export"
OLDEST_JAX = "0.7.1"


def drawn_eagerly(cases):
    return {case.name: stack([case(key) for key in fixed_keys()]) for case in cases}


def test_the_table_has_every_case():
    assert list(json.loads(TABLE.read_text())) == [case.name for case in ALL]


@pytest.mark.slow
def test_a_program_of_its_own_with_every_optimization_draws_the_masks_of_the_table():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, __file__, "compare"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


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
    assert_digests({ALL[0].name: stack([loaded.call(key) for key in fixed_keys()])})


def write_table_and_export():
    table = {name: digest(by_key(masks)) for name, masks in drawn_eagerly(ALL).items()}
    TABLE.write_text(json.dumps(table, indent=2) + "\n")
    if jax.__version__ == OLDEST_JAX:
        EXPORTED.parent.mkdir(exist_ok=True)
        draw = jax.jit(lambda key: ALL[0](key))
        exported = export.export(draw, platforms=("cpu", "cuda", "tpu"))(jax.random.key(0))
        EXPORTED.write_bytes(exported.serialize())
    else:
        print(f"{EXPORTED.name} is left as it was: only jax {OLDEST_JAX} makes it")


if __name__ == "__main__":
    if sys.argv[1:]:
        assert_digests(drawn_eagerly(ALL))
    else:
        write_table_and_export()
