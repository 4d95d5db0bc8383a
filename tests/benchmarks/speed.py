"""Times strategies relative to a lower bound, and the tools around them against the obvious code.

Lower bound: drawing the random bits and writing the output, in the same run. Figures are medians
over interleaved repetitions, with the interquartile range behind them.
"""

import argparse
import functools
import json
import math
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jepa_masks_jax as jm

IMAGES = [(14, 14), (16, 16), (28, 28)]
VIDEOS = [(8, 14, 14), (8, 16, 16), (32, 16, 16), (32, 24, 24)]
BATCHES = [64, 2048, 16384]
MAX_OUTPUT = 2**28


def vjepa_words(num_blocks, placements):
    """Blocks that last all frames need a word for the top and one for the left."""
    return 3 + 2 * num_blocks * placements + 1


BOXES = functools.partial(jm.box_mask, num_boxes=4, extent=((2, 6), (2, 6)))
STRATEGIES = {
    "block_mask": (jm.block_mask, IMAGES, lambda grid: 4 * 4 + 1),
    "spatiotemporal_mask": (jm.spatiotemporal_mask, VIDEOS, lambda grid: 5 * 2 + 1),
    "multi_block_mask": (jm.multi_block_mask, IMAGES, lambda grid: 2 * 4 + 1),
    "ijepa": (jm.presets.ijepa, IMAGES, lambda grid: 3 + 2 * 5 + 1),
    "vjepa_short_range": (
        jm.presets.vjepa_short_range,
        VIDEOS,
        lambda grid: vjepa_words(8, 1 if grid[-1] == 24 else 4),
    ),
    "vjepa_long_range": (jm.presets.vjepa_long_range, VIDEOS, lambda grid: vjepa_words(2, 4)),
    "box_mask": (BOXES, IMAGES, lambda grid: 4 * 4 + 1),
    "capi": (jm.presets.capi, IMAGES, lambda grid: 3),
    "beit": (jm.presets.beit, IMAGES[:1], lambda grid: 4 * 24 + math.prod(grid) + 1),
    "wav2vec2": (jm.presets.wav2vec2, [(749,)], lambda grid: grid[0] - 10 + 2),
    "t5": (jm.presets.t5, [(512,)], lambda grid: 2 * grid[0]),
    "mae": (jm.presets.mae, IMAGES, math.prod),
    "videomae_tube": (jm.presets.videomae_tube, VIDEOS, lambda grid: math.prod(grid[1:])),
}


def time_interleaved(calls, repetitions):
    """Times calls in turn: float64[repetitions, calls], seconds."""
    for call in calls:
        jax.block_until_ready(call())
    times = np.empty((repetitions, len(calls)))
    for i in range(repetitions):
        for j, call in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[i, j] = time.perf_counter() - start
    return times


def spread(values):
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def by(grid):
    return "x".join(map(str, grid))


def floor_of(words, output):
    """Draws one mask's random words and fills arrays of the shapes of its output."""

    def floor(key):
        bits = jax.random.bits(key, (words,), jnp.uint32)
        fill = bits[0] > 0
        return bits, jax.tree.map(lambda array: jnp.broadcast_to(fill, array.shape), output)

    return floor


def time_strategy(name, grid, batch, repetitions):
    strategy, _, words = STRATEGIES[name]
    draw = functools.partial(strategy, grid=grid)
    output = jax.eval_shape(draw, jax.random.key(0))
    size = sum(math.prod(array.shape) for array in jax.tree.leaves(output))
    batch = min(batch, MAX_OUTPUT // size)
    keys = jax.random.split(jax.random.key(0), batch)

    start = time.perf_counter()
    masks = jax.jit(jax.vmap(draw)).lower(keys).compile()
    compile_time = time.perf_counter() - start
    floor = jax.jit(jax.vmap(floor_of(words(grid), output))).lower(keys).compile()
    times = time_interleaved([lambda: masks(keys), lambda: floor(keys)], repetitions)
    memory = masks.memory_analysis()
    return {
        "strategy": name,
        "grid": by(grid),
        "batch": batch,
        "time / lower bound": spread(times[:, 0] / times[:, 1]),
        "us a mask": spread(1e6 * times[:, 0] / batch),
        "temporaries to output": memory.temp_size_in_bytes / memory.output_size_in_bytes,
        "compile s": compile_time,
    }


def time_eager(name, grid, repetitions):
    """Times a warm call on one key beside a permutation of as many tokens."""
    strategy, tokens = STRATEGIES[name][0], math.prod(grid)
    key = jax.random.key(0)
    calls = [lambda: strategy(key, grid), lambda: jax.random.permutation(key, tokens)]
    times = time_interleaved(calls, 10 * repetitions)
    return {
        "strategy": name,
        "grid": by(grid),
        "ratio to permutation": spread(times[:, 0] / times[:, 1]),
        "us a call": spread(1e6 * times[:, 0]),
    }


def numpy_collator(rng, grid, batch):
    """What a plain collator does for I-JEPA's targets and context, sample by sample."""
    height, width = grid
    masks = []
    for _ in range(batch):
        free = np.ones(grid, bool)
        count, aspect = int(height * width * rng.uniform(0.15, 0.2)), rng.uniform(0.75, 1.5)
        h, w = round(math.sqrt(count * aspect)), round(math.sqrt(count / aspect))
        targets = []
        for _ in range(4):
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            target = np.zeros(grid, bool)
            target[top : top + h, left : left + w] = True
            free &= ~target
            targets.append(np.flatnonzero(target))
        side = round(math.sqrt(height * width * rng.uniform(0.85, 1)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        context = np.zeros(grid, bool)
        context[top : top + side, left : left + side] = True
        masks.append((np.flatnonzero(context & free), targets))
    return masks


def blocks_until_exact(rng, grid, num_masked, min_block):
    """What BEiT's loader does for one image."""
    mask, refused = np.zeros(grid, bool), 0
    while mask.sum() < num_masked and refused < 10:
        rest = num_masked - mask.sum()
        area = min_block + rng.random() * (rest - min_block)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        refused += 1
        if h < grid[0] and w < grid[1]:
            top, left = rng.integers(grid[0] - h + 1), rng.integers(grid[1] - w + 1)
            block = mask[top : top + h, left : left + w]
            if 0 < h * w - block.sum() <= rest:
                block[:], refused = True, 0
    return mask


def time_blockwise(repetitions, batch=256, grid=(14, 14)):
    """Times BEiT's masks beside BEiT's loop on the host."""
    keys, rng = jax.random.split(jax.random.key(0), batch), np.random.default_rng(0)
    masks = jax.jit(jax.vmap(functools.partial(jm.presets.beit, grid=grid)))
    calls = {
        "jepa_masks_jax": lambda: masks(keys),
        "BEiT's loop": lambda: [blocks_until_exact(rng, grid, 75, 16) for _ in range(batch)],
    }
    return collator_rows(calls, grid, batch, repetitions)


def collator_rows(calls, grid, batch, repetitions):
    times = time_interleaved(list(calls.values()), repetitions)
    return [
        {
            "collator": name,
            "grid": by(grid),
            "batch": batch,
            "times as long": spread(times[:, i] / times[:, 0]),
            "us a sample": spread(1e6 * times[:, i] / batch),
        }
        for i, name in enumerate(calls)
    ]


def time_collators(repetitions, batch=256, grid=(16, 16)):
    """Times I-JEPA's masks beside collators on the host."""
    keys = jax.random.split(jax.random.key(0), batch)
    masks = jax.jit(jax.vmap(functools.partial(jm.presets.ijepa, grid=grid)))
    rng = np.random.default_rng(0)
    calls = {
        "jepa_masks_jax": lambda: masks(keys),
        "NumPy collator": lambda: numpy_collator(rng, grid, batch),
    }
    try:
        import torch
        from lightly.data.ijepa_collate import IJEPAMaskCollator
    except ImportError:
        pass
    else:
        collate = IJEPAMaskCollator(
            input_size=224,
            patch_size=14,
            enc_mask_scale=(0.85, 1.0),
            pred_mask_scale=(0.15, 0.2),
            aspect_ratio=(0.75, 1.5),
            npred=4,
            min_keep=10,
        )
        samples = [torch.zeros(1)] * batch
        calls["lightly's collator"] = lambda: collate(samples)
    return collator_rows(calls, grid, batch, repetitions)


SIZED = {
    "ijepa": (jm.presets.ijepa, (16, 16)),
    "vjepa_short_range": (jm.presets.vjepa_short_range, (8, 16, 16)),
    "vjepa_long_range": (jm.presets.vjepa_long_range, (8, 16, 16)),
    "mae": (jm.presets.mae, (16, 16)),
    "wav2vec2": (jm.presets.wav2vec2, (749,)),
    "box_mask": (BOXES, (16, 16)),
}


def time_sizes(repetitions, batch=1024):
    """Times samples of different sizes beside samples that fill the grid."""
    rows = []
    for name, (strategy, grid) in SIZED.items():
        keys = jax.random.split(jax.random.key(0), batch)
        sides = np.random.default_rng(0).integers(1, np.add(grid, 1), (batch, len(grid)), np.int32)
        sized = jax.jit(jax.vmap(lambda key, s, f=strategy, g=grid: f(key, g, within=s)))
        whole = jax.jit(jax.vmap(functools.partial(strategy, grid=grid)))
        calls = [functools.partial(sized, keys, sides), functools.partial(whole, keys)]
        if name == "ijepa":
            calls += [switched(strategy, grid, count, keys) for count in (4, 16)]
        times = time_interleaved(calls, repetitions)
        others = ["the whole grid", "lax.switch over 4 sizes", "lax.switch over 16 sizes"]
        rows += [
            {
                "strategy": name,
                "grid": by(grid),
                "batch": batch,
                "within= beside": other,
                "ratio": spread(times[:, 0] / times[:, i]),
                "us a mask": spread(1e6 * times[:, 0] / batch),
            }
            for i, other in enumerate(others[: len(calls) - 1], 1)
        ]
    return rows


def switched(strategy, grid, count, keys):
    """Chooses among the programs of so many sizes, as one would without `within`."""

    def branch(side):
        def draw(key):
            masks = strategy(key, (grid[0], side))
            pad = [(0, 0), (0, grid[1] - side)]
            return jax.tree.map(lambda m: jnp.pad(m, [(0, 0)] * (m.ndim - 2) + pad), masks)

        return draw

    branches = [branch(grid[1] - i % 8 // 2) for i in range(count)]
    number = np.arange(len(keys), dtype=np.int32) % count
    draw = jax.jit(jax.vmap(lambda n, key: jax.lax.switch(n, branches, key)))
    return functools.partial(draw, number, keys)


def time_tools(repetitions):
    """Times the token tools and the host side beside what users would write."""
    key, batch, grid = jax.random.key(0), 256, (8, 16, 16)
    tokens = math.prod(grid)
    size = tokens // 4
    masks = jax.random.bernoulli(key, 0.25, (batch, *grid))
    keys = jax.random.split(key, batch)
    on_host = np.asarray(jax.random.bernoulli(key, 0.25, (16384, 14, 14)))

    def compiled(function, *args):
        return jax.jit(jax.vmap(function)).lower(*args).compile()

    indices = compiled(functools.partial(jm.token_indices, size=size), masks)
    nonzero = compiled(lambda mask: jnp.nonzero(mask.reshape(-1), size=size), masks)
    sort = compiled(
        lambda mask: jnp.sort(jnp.where(mask.reshape(-1), jnp.arange(tokens), tokens))[:size], masks
    )
    clip = compiled(functools.partial(jm.clip_count, exactly=size), keys, masks)
    floor = compiled(lambda key, mask: jax.random.bits(key, mask.shape, jnp.uint32), keys, masks)

    def loop():
        return [np.flatnonzero(side) for mask in on_host for side in (mask, ~mask)]

    rows = []
    for tool, call, others in (
        (
            "token_indices",
            lambda: indices(masks),
            {"jnp.nonzero(size=)": lambda: nonzero(masks), "jnp.sort": lambda: sort(masks)},
        ),
        (
            "clip_count",
            lambda: clip(keys, masks),
            {"a word for each token": lambda: floor(keys, masks)},
        ),
        ("to_mask_specs", lambda: jm.to_mask_specs(on_host), {"np.flatnonzero in a loop": loop}),
    ):
        times = time_interleaved([call, *others.values()], repetitions)
        num_masks, shape = (len(on_host), "14x14") if tool == "to_mask_specs" else (batch, by(grid))
        rows += [
            {
                "tool": tool,
                "grid": shape,
                "batch": num_masks,
                "beside": other,
                "ratio": spread(times[:, 0] / times[:, i]),
                "us a mask": spread(1e6 * times[:, 0] / num_masks),
            }
            for i, other in enumerate(others, 1)
        ]
    memory = clip.memory_analysis()
    clip_row = next(row for row in rows if row["tool"] == "clip_count")
    clip_row["temporaries to output"] = memory.temp_size_in_bytes / memory.output_size_in_bytes
    return rows


def machine():
    """Says what the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.open() if "model name" in line] if cpuinfo.exists() else []
    return {
        "device": jax.devices()[0].device_kind,
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
    }


def show(value):
    if isinstance(value, dict):
        return "{median:.2f} ({low:.2f}-{high:.2f})".format(**value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def print_table(rows):
    columns = list(rows[0])
    print()
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(show(row.get(column, "")) for column in columns) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15, help="of each call (default 15)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=BATCHES, help="default: 64 2048 16384"
    )
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--out", default="speed.json", help="figures (default %(default)s)")
    args = parser.parse_args()

    strategy_runs = [
        (name, grid, batch)
        for name in args.strategies
        for grid in STRATEGIES[name][1]
        for batch in args.batches
    ]
    eager_runs = [(name, STRATEGIES[name][1][0]) for name in args.strategies]
    with tqdm(total=len(strategy_runs) + len(eager_runs) + 4, desc="timing") as progress:

        def timed(function, *run):
            row = function(*run, args.repetitions)
            progress.update()
            return row

        strategies = [timed(time_strategy, *run) for run in strategy_runs]
        eager = [timed(time_eager, *run) for run in eager_runs]
        collators = timed(time_collators) + timed(time_blockwise)
        sizes = timed(time_sizes)
        tools = timed(time_tools)

    results = {
        "machine": machine(),
        "strategies": strategies,
        "eager": eager,
        "collators": collators,
        "sizes": sizes,
        "tools": tools,
    }
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    for name in ("strategies", "eager", "collators", "sizes", "tools"):
        print_table(results[name])
    Path(args.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
