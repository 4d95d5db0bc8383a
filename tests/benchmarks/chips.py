"""Compiles the start of a step in rows for chips that are not here: does it communicate?

For each topology of TPUs: the collectives in the program that draws pools of masks, puts them into
rows of two, lists the context of each row and gathers its patches, as in `.github/ROWS.md`; the
temporary memory of a chip; and the cycles of a chip that the compiler estimates. Nothing is run,
and no TPU is needed:

    python3 -m venv .venv-tpu && .venv-tpu/bin/pip install -q -e . "jax[tpu]"
    .venv-tpu/bin/python tests/benchmarks/chips.py
"""

import argparse
import os
import re

os.environ.update(
    JAX_PLATFORMS="cpu",
    TF_CPP_MIN_LOG_LEVEL="3",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5p-8",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jepa_masks_jax as jm

PER_ROW, WIDTH = 2, 64
COLLECTIVE = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
SETTINGS = {  # what draws a context, its grid, the pool, a device's samples, the length of a row
    "I-JEPA, 14x14": (
        lambda key: jm.presets.ijepa(key, (14, 14)).context,
        *((14, 14), 256, 16, 188),
    ),
    "V-JEPA, short range, 8x14x14": (
        lambda key: ~jm.presets.vjepa_short_range(key, (8, 14, 14)),
        *((8, 14, 14), 240, 24, 1232),
    ),
    "V-JEPA, long range, 8x14x14": (
        lambda key: ~jm.presets.vjepa_long_range(key, (8, 14, 14)),
        *((8, 14, 14), 240, 24, 656),
    ),
}


def start_of_step(setting, key, step, patches):
    """Draws the masks of all devices in rows and gathers the tokens of their contexts."""
    draw, grid, pool, batch, size = setting
    tokens, parts, devices = int(np.prod(grid)), pool // batch, len(patches) // batch

    def of_device(part):
        mask_key, order_key, row_key = jax.random.split(jax.random.fold_in(key, part // parts), 3)
        masks = jax.vmap(draw)(jax.random.split(mask_key, pool))
        rows = jm.in_rows(order_key, masks, per_row=PER_ROW)
        rows = rows, jax.random.split(row_key, pool // PER_ROW)
        return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:])[part % parts], rows)

    def of_row(context, key, patches):
        seen = jm.token_indices(context, size=size, key=key, per_row=PER_ROW)
        return jm.take_tokens(patches, seen)

    rows = jax.vmap(of_device)(step * devices + jnp.arange(devices))
    context, keys = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    return jax.vmap(of_row)(context, keys, patches.reshape(-1, PER_ROW * tokens, WIDTH))


def compiled(setting, topology):
    """Compiles it with the patches sharded along the batch: the program, and how many chips."""
    _, grid, _, batch, _ = setting
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    chips = np.array(described.devices).reshape(-1)
    mesh = Mesh(chips, ("data",), axis_types=(AxisType.Auto,))
    everywhere, by_data = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    shape = (chips.size * batch, int(np.prod(grid)), WIDTH)
    arguments = (
        jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=everywhere),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=by_data),
    )
    step = jax.jit(lambda *arguments: start_of_step(setting, *arguments))
    return step.lower(*arguments).compile(), chips.size


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "topologies",
        nargs="*",
        default=["v5p:2x2x4", "v5p:4x8x8", "v5p:8x8x16"],
        help="of a TPU v5p (default: those of 16, 256 and 1,024 chips)",
    )
    print("| | chips | collectives | MiB of a chip | cycles of a chip |\n|---|---:|---|---:|---:|")
    for name, setting in SETTINGS.items():
        for topology in parser.parse_args().topologies:
            program, chips = compiled(setting, topology)
            text = program.as_text()
            collectives = ", ".join(sorted(set(re.findall(COLLECTIVE, text)))) or "none"
            memory = program.memory_analysis().temp_size_in_bytes / 2**20
            cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
            cells = name, f"{chips:,}", collectives, f"{memory:.2f}", f"{cycles:,}"
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
