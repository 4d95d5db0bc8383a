"""Compiles every function for an accelerator that is not here, beside the plain code for the same.

These are the compiler's figures, not measurements: nothing is run. They serve to compare two ways
to write the same function.

tpu: the cycles that the TPU compiler estimates for a v5e.
gpu: the kernels and copies that an H100 is given to launch.

Each needs an environment of its own. No accelerator is needed. The second takes 3 GB:

    python3 -m venv .venv-tpu && .venv-tpu/bin/pip install -q -e . "jax[tpu]"
    python3 -m venv .venv-gpu && .venv-gpu/bin/pip install -q -e . "jax[cuda12]"
"""

import argparse
import functools
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jepa_masks_jax as jm

IMAGE, LARGER, VIDEO, SEQUENCE = (14, 14), (16, 16), (8, 16, 16), (1214,)
BOXES = functools.partial(jm.box_mask, num_boxes=4, extent=((2, 6), (2, 6)))
UNITS = {"tpu": "cycles, estimated for a TPU v5e", "gpu": "launches on an H100"}
ENVIRONMENTS = {
    "tpu": {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    },
    "gpu": {"CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
KERNELS = {
    *("fusion", "custom-call", "sort", "copy", "reduce", "reduce-window", "scatter", "gather"),
    *("concatenate", "transpose", "pad", "iota", "broadcast", "convert", "compare"),
}


def absent_device(accelerator):
    """Describes one device that is not here: a sharding along the batch."""
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(ENVIRONMENTS[accelerator], TF_CPP_MIN_LOG_LEVEL="3")
    if accelerator == "tpu":
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    else:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0"
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology="1x1x1"
        )
    mesh = Mesh(np.array(topology.devices[:1]), ("batch",))
    return NamedSharding(mesh, PartitionSpec("batch"))


def compiled_text(function, args, batch, device):
    """Compiles a function of one sample over a batch: the program as text."""
    shapes = [jax.ShapeDtypeStruct((batch, *arg.shape), arg.dtype, sharding=device) for arg in args]
    return jax.jit(jax.vmap(function)).lower(*shapes).compile().as_text()


def computations(text):
    """Splits a program into its computations: their lines by name, and the name of the first."""
    parts, lines, entry = {}, [], None
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line):
            lines = parts[start[2]] = []
            entry = start[2] if start[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return parts, entry


def called(line, parts):
    """Yields the computations that a line calls, and how often."""
    if " while(" in line:
        body, condition = (
            re.search(rf"{part}=%?([\w.\-]+)", line)[1] for part in ("body", "condition")
        )
        turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        turns = turns or re.search(r"s32\[\]\S* constant\((\d+)\)", "".join(parts[condition]))
        if not turns:
            raise ValueError(f"the turns of this loop are not known: {line}")
        yield from ((body, int(turns[1])), (condition, int(turns[1])))
    elif " conditional(" in line:
        raise ValueError(f"the branch that is taken is not known: {line}")
    elif call := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
        yield call[1], 1


def total(parts, name, cost):
    """Adds up the costs of a computation's lines, loops as often as they turn."""
    return sum(
        cost(line) + sum(times * total(parts, other, cost) for other, times in called(line, parts))
        for line in parts[name]
    )


def cycles(line):
    estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
    return int(estimate[1]) if estimate else 0


def launches(line):
    operation = re.search(r"= (?:\([^=]*?\)|\S+) ([a-z\-]+)\(", line)
    return int(bool(operation) and operation[1] in KERNELS)


def with_key(function):
    """Lets a function take its key as raw words, which any device can be given."""
    return lambda words, *args: function(jax.random.wrap_key_data(words), *args)


def sort_words(key, mask, size):
    """Picks `size` of a mask's tokens: those with the lowest random words."""
    words = jax.random.bits(key, (mask.size,), jnp.uint32) >> 1
    words = jnp.where(mask.reshape(-1), words, jnp.uint32(1 << 31))
    return (words <= jnp.sort(words)[size - 1]).reshape(mask.shape)


def enlarge(mask, grid):
    """Repeats a frame, or whole cells, over the grid."""
    if not isinstance(grid, tuple) or mask.ndim < len(grid):
        return jnp.broadcast_to(mask, grid)
    for axis, side in enumerate(grid):
        mask = jnp.repeat(mask, side // mask.shape[axis], axis)
    return mask


def sort_numbers(mask, size):
    """Lists a mask's tokens, in order."""
    numbers = jnp.arange(mask.size, dtype=jnp.int32)
    return jnp.sort(jnp.where(mask.reshape(-1), numbers, mask.size))[:size]


def gather(tokens, index, valid):
    return jm.take_tokens(tokens, jm.TokenIndices(index, valid, tokens.shape[0]))


def scatter(tokens, index, valid):
    return jm.put_tokens(tokens, jm.TokenIndices(index, valid, math.prod(IMAGE)))


def by(grid):
    return "x".join(map(str, grid)) if isinstance(grid, tuple) else f"{grid} slots"


def strategy_rows():
    """Lists what is compiled: a label, functions by name, the library's first, and arguments."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def row(name, strategy, grid, drawn=None, size=None):
        functions = {name: with_key(lambda key: strategy(key, grid))}
        if drawn:
            functions["one sort of words"] = with_key(
                lambda key: enlarge(sort_words(key, jnp.ones(drawn, bool), size), grid)
            )
        return f"`{name}` {by(grid)}", functions, [key]

    return [
        row("block_mask", jm.block_mask, IMAGE),
        row("multi_block_mask", jm.multi_block_mask, IMAGE),
        row("spatiotemporal_mask", jm.spatiotemporal_mask, VIDEO),
        row("box_mask", BOXES, IMAGE),
        row("ijepa", jm.presets.ijepa, LARGER),
        row("ijepa", jm.presets.ijepa, SEQUENCE),
        row("vjepa_short_range", jm.presets.vjepa_short_range, VIDEO),
        row("vjepa_long_range", jm.presets.vjepa_long_range, VIDEO),
        row("capi", jm.presets.capi, LARGER),
        row("beit", jm.presets.beit, IMAGE, IMAGE, 75),
        row("wav2vec2", jm.presets.wav2vec2, SEQUENCE, SEQUENCE, 79),
        row("t5", jm.presets.t5, (512,), (512,), 77),
        row("simmim", jm.presets.simmim, (48, 48), (6, 6), 22),
        row("mae", jm.presets.mae, IMAGE, IMAGE, 147),
        row("videomae_tube", jm.presets.videomae_tube, VIDEO, VIDEO[1:], 230),
        row("object_mask", jm.object_mask, 7, (7,), 2),
    ]


def sized_rows():
    """Lists strategies whose real sides are traced, beside those that fill the grid."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def row(name, strategy, grid):
        functions = {
            name: with_key(lambda key, sides: strategy(key, grid, within=sides)),
            "the whole grid": with_key(lambda key, sides: strategy(key, grid)),
        }
        sides = jax.ShapeDtypeStruct((len(grid),), jnp.int32)
        return f"`{name}` {by(grid)}, `within=`", functions, [key, sides]

    return [
        row("ijepa", jm.presets.ijepa, LARGER),
        row("vjepa_short_range", jm.presets.vjepa_short_range, VIDEO),
        row("vjepa_long_range", jm.presets.vjepa_long_range, VIDEO),
        row("mae", jm.presets.mae, LARGER),
        row("wav2vec2", jm.presets.wav2vec2, SEQUENCE),
        row("box_mask", BOXES, LARGER),
    ]


def token_rows():
    """Lists the token functions as `strategy_rows` does."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    rows = []
    for grid, size in ((LARGER, 64), (VIDEO, 512)):
        mask = jax.ShapeDtypeStruct(grid, jnp.bool_)
        clip = functools.partial(jm.clip_count, exactly=size)
        functions = {
            "clip_count": with_key(clip),
            "one sort of words": with_key(functools.partial(sort_words, size=size)),
        }
        rows.append((f"`clip_count` {by(grid)} to {size}", functions, [key, mask]))
    for grid, size in ((LARGER, 64), (VIDEO, 512)):
        mask = jax.ShapeDtypeStruct(grid, jnp.bool_)
        functions = {
            "token_indices": functools.partial(jm.token_indices, size=size),
            "one sort of numbers": functools.partial(sort_numbers, size=size),
            "`jnp.nonzero(size=)`": lambda m, n=size: jnp.nonzero(m.reshape(-1), size=n)[0],
        }
        rows.append((f"`token_indices` {by(grid)} to {size}", functions, [mask]))
        functions = {
            "token_indices": with_key(lambda k, m, n=size: jm.token_indices(m, size=n, key=k))
        }
        rows.append((f"`token_indices` {by(grid)} to {size}, with a key", functions, [key, mask]))
    pair = jax.ShapeDtypeStruct((2, *IMAGE), jnp.bool_)
    of_pair = functools.partial(jm.token_indices, size=188, per_row=2)
    functions = {"token_indices": lambda pair: (of_pair(pair), of_pair(pair).sample)}
    rows.append(("`token_indices` of a row of two 14x14 to 188", functions, [pair]))
    row = [jax.ShapeDtypeStruct((188,), dtype) for dtype in (jnp.int32, jnp.bool_)]
    functions = {"attention_mask": lambda *row: jm.attention_mask(jm.TokenIndices(*row, 392, 2))}
    rows.append(("`attention_mask` of such a row", functions, row))
    args = [
        jax.ShapeDtypeStruct((math.prod(IMAGE), 32), jnp.float32),
        jax.ShapeDtypeStruct((64,), jnp.int32),
        jax.ShapeDtypeStruct((64,), jnp.bool_),
    ]
    functions = {
        "take_tokens": gather,
        "`jnp.take`": lambda tokens, index, valid: jnp.take(tokens, index, axis=0),
    }
    rows.append(("`take_tokens` 196x32 to 64", functions, args))
    taken = [jax.ShapeDtypeStruct((64, 32), jnp.float32), *args[1:]]
    rows.append(("`put_tokens` 64x32 to 196", {"put_tokens": scatter}, taken))
    scores = jax.ShapeDtypeStruct(LARGER, jnp.float32)
    functions = {"top_mask": functools.partial(jm.top_mask, num_masked=64)}
    rows.append(("`top_mask` 16x16, 64", functions, [scores]))
    functions = {"top_mask": with_key(lambda k, s: jm.top_mask(s, num_masked=64, key=k))}
    rows.append(("`top_mask` 16x16, 64, with a key", functions, [key, scores]))
    functions = {"squared_distance": jm.squared_distance}
    rows.append(("`squared_distance` 16x16", functions, [jax.ShapeDtypeStruct(LARGER, jnp.bool_)]))
    return rows


def group_rows():
    """Lists what takes a whole batch, as `strategy_rows` does."""
    key, counts = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((256,), jnp.int32)
    functions = {
        "balanced_order": with_key(functools.partial(jm.balanced_order, per_row=2)),
        "`jax.random.permutation`": with_key(lambda key, counts: jax.random.permutation(key, 256)),
    }
    masks = jax.ShapeDtypeStruct((256, *IMAGE), jnp.bool_)
    in_rows = {"in_rows": with_key(functools.partial(jm.in_rows, per_row=2))}
    return [
        ("`in_rows` of 256 masks of 14x14", in_rows, [key, masks]),
        ("`balanced_order` of 256 samples in rows of two", functions, [key, counts]),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("accelerator", choices=UNITS)
    parser.add_argument("--batch", type=int, default=256, help="default: 256")
    args = parser.parse_args()
    device = absent_device(args.accelerator)
    cost = cycles if args.accelerator == "tpu" else launches

    print(f"| batch {args.batch} | {UNITS[args.accelerator]} | plain code |")
    print("|---|---:|---|")
    rows = [*strategy_rows(), *sized_rows(), *token_rows()]
    compiled = [(*row, args.batch) for row in rows] + [(*row, 1) for row in group_rows()]
    for label, functions, shapes, batch in compiled:
        costs = [
            total(*computations(compiled_text(function, shapes, batch, device)), cost)
            for function in functions.values()
        ]
        others = zip(list(functions)[1:], costs[1:], strict=True)
        plain = ", ".join(f"{name} {other:,}" for name, other in others)
        print(f"| {label} | {costs[0]:,} | {plain} |", flush=True)


if __name__ == "__main__":
    main()
