"""Compares ways to hand contexts to an encoder: what they drop, what they compute, what it costs.

A list of one sample is as long as the 5 %, 50 % or 99 % quantile of the counts. A batch can be cut
to its shortest context, as Meta's collators do. A row holds several samples in balanced order, and
is as long as the 99 % quantile of the rows' totals. FLOPs are the compiler's, for a step through
two layers of a transformer, forward and backward, with masks and lists. Seconds are measured.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jepa_masks_jax as jm

BATCH = 256  # of the samples that are put in order
STEP_BATCH, DEPTH, HEAD_WIDTH = 64, 2, 64
WIDTHS = (192, 384, 1024)


class Setting(NamedTuple):
    name: str
    draw: Callable[[jax.Array], jax.Array]
    """draws the context of one sample, bool[*grid]"""
    grid: tuple[int, ...]
    truncated: int
    """the size of the batches that are cut to their shortest mask"""


def ijepa(grid):
    return lambda key: jm.presets.ijepa(key, grid).context


def vjepa(preset):
    return lambda key: ~preset(key, (8, 14, 14))


def mae_of_mixed_shapes(key):
    """Draws height and width, each from 8 to 32 tokens, and MAE's context of such an image."""
    sides_key, mask_key = jax.random.split(key)
    sides = jax.random.randint(sides_key, (2,), 8, 33)
    return jm.inside((32, 32), sides) & ~jm.presets.mae(mask_key, (32, 32), within=sides)


SETTINGS = [
    Setting("I-JEPA, 14x14", ijepa((14, 14)), (14, 14), 128),
    Setting("I-JEPA, 16x16", ijepa((16, 16)), (16, 16), 128),
    Setting("V-JEPA, short range, 8x14x14", vjepa(jm.presets.vjepa_short_range), (8, 14, 14), 24),
    Setting("V-JEPA, long range, 8x14x14", vjepa(jm.presets.vjepa_long_range), (8, 14, 14), 24),
    Setting("MAE, 8x8 to 32x32", mae_of_mixed_shapes, (32, 32), 128),
]


class Way(NamedTuple):
    name: str
    samples: int
    """in one list or row; 0 where a batch is cut to its shortest mask"""
    length: int
    dropped: float
    computed: float
    """tokens computed for each context token that is kept"""


def contexts(setting, key, batch):
    """Draws contexts: bool[batch, *grid]."""
    return jax.vmap(setting.draw)(jax.random.split(key, batch))


def count_all(masks):
    return masks.reshape(len(masks), -1).sum(1)


def ways_of(setting, num_masks):
    """Measures what each way drops and computes, over so many masks."""
    sizes = (2, 4, 8)

    @jax.jit
    def draw(key):
        mask_key, order_key = jax.random.split(key)
        counts = count_all(contexts(setting, mask_key, BATCH))
        orders = [jm.balanced_order(order_key, counts, rows=BATCH // size) for size in sizes]
        return counts, [counts[order] for order in orders]

    keys = jax.random.split(jax.random.key(0), num_masks // BATCH)
    drawn = [jax.tree.map(np.asarray, draw(key)) for key in keys]
    counts = np.concatenate([counts for counts, _ in drawn])

    shortest = [
        counts[i : i + setting.truncated].min() for i in range(0, len(counts), setting.truncated)
    ]
    cut = np.repeat(shortest, setting.truncated)[: len(counts)]
    name = f"cut to the shortest of {setting.truncated}"
    ways = [Way(name, 0, round(cut.mean()), 1 - cut.sum() / counts.sum(), 1.0)]
    for quantile in (0.05, 0.5, 0.99):
        ways.append(
            way_of(f"lists, {quantile:.0%} quantile".replace("%", " %"), 1, counts, quantile)
        )
    for i, size in enumerate(sizes):
        totals = np.concatenate([ordered[i] for _, ordered in drawn]).reshape(-1, size).sum(1)
        ways.append(way_of(f"rows of {size}", size, totals, 0.99))
    return ways


def way_of(name, samples, totals, quantile):
    length = int(np.quantile(totals, quantile, method="inverted_cdf"))
    kept = np.minimum(totals, length).sum()
    return Way(name, samples, length, 1 - kept / totals.sum(), length * len(totals) / kept)


def init(width):
    """Parameters of the layers, float32."""
    sides = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
    layer = {name: jnp.full((width * a, width * b), 0.01) for name, (a, b) in sides.items()}
    return [layer] * DEPTH


def encode(params, x, mask):
    """float[B, n, width] and bool[B, 1, 1 or n, n]."""
    for layer in params:
        qkv = jax.nn.standardize(x) @ layer["qkv"]
        qkv = qkv.reshape(*x.shape[:2], 3, -1, HEAD_WIDTH)
        heads = (qkv[:, :, i] for i in range(3))
        x = x + jax.nn.dot_product_attention(*heads, mask=mask).reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(jax.nn.standardize(x) @ layer["up"]) @ layer["down"]
    return x


def step(setting, way, params, patches, key):
    """The gradients of a step: patches float[STEP_BATCH, N, width]."""
    tokens, rows = math.prod(setting.grid), STEP_BATCH // way.samples
    mask_key, order_key, row_key = jax.random.split(key, 3)
    masks = contexts(setting, mask_key, STEP_BATCH)
    if way.samples > 1:
        masks = masks[jm.balanced_order(order_key, count_all(masks), rows=rows)]
    masks = masks.reshape(rows, way.samples, *setting.grid)
    list_row = functools.partial(jm.token_indices, size=way.length)
    seen = jax.vmap(lambda mask, key: list_row(mask, key=key))(
        masks, jax.random.split(row_key, rows)
    )
    x = jax.vmap(jm.take_tokens)(patches.reshape(rows, way.samples * tokens, -1), seen)
    if way.samples > 1:
        sample = seen.indices // tokens
        mask = (sample[:, :, None] == sample[:, None])[:, None]
    else:
        mask = seen.valid[:, None, None]
    loss = lambda params: jnp.sum(encode(params, x, mask) ** 2 * seen.valid[..., None])  # noqa: E731
    return jax.grad(loss)(params)


def arguments(setting, width):
    return init(width), jnp.zeros((STEP_BATCH, math.prod(setting.grid), width)), jax.random.key(0)


@functools.cache
def flops_of(setting, way, width):
    """Counts the FLOPs of a step; the code need not be fast."""
    shapes = jax.eval_shape(functools.partial(arguments, setting, width))
    lowered = jax.jit(functools.partial(step, setting, way)).lower(*shapes)
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    return compiled.cost_analysis()["flops"]


def time_steps(setting, ways, width, repetitions):
    """Times the steps in turn: float64[repetitions, ways], seconds."""
    params, _, key = arguments(setting, width)
    patches = jax.random.normal(key, (STEP_BATCH, math.prod(setting.grid), width))
    steps = [jax.jit(functools.partial(step, setting, way)) for way in ways]
    times = np.empty((repetitions + 1, len(ways)))
    for i in range(repetitions + 1):
        for j, one in enumerate(steps):
            start = time.perf_counter()
            jax.block_until_ready(one(params, patches, key))
            times[i, j] = time.perf_counter() - start
    return times[1:]


def print_ways(setting, ways, widths):
    heads = ["length", "dropped", "computed", *(f"FLOPs at {width}" for width in widths)]
    print(f"\n| {setting.name} | {' | '.join(heads)} |")
    print("|---" + "|---:" * len(heads) + "|")
    base = {width: flops_of(setting, ways[3], width) for width in widths}
    for way in ways:
        flops = [
            f"{flops_of(setting, way, w) / base[w]:.2f}" if way.samples else "" for w in widths
        ]
        cells = [way.name, str(way.length), f"{way.dropped:.2%}".replace("%", " %")]
        print(f"| {' | '.join([*cells, f'{way.computed:.2f}', *flops])} |", flush=True)


def print_times(setting, ways, width, repetitions):
    times = time_steps(setting, ways, width, repetitions)
    print(f"\n| {setting.name}, width {width} | seconds a step | beside lists |")
    print("|---|---:|---:|")
    for i, way in enumerate(ways):
        low, median, high = np.quantile(times[:, i], (0.25, 0.5, 0.75))
        ratio = np.median(times[:, i] / times[:, 0])
        print(f"| {way.name} | {median:.2f} ({low:.2f}-{high:.2f}) | {ratio:.2f} |")


def plot(setting, ways, path):
    """Plots what is computed against what is dropped, a point for each way."""
    figure = Figure(figsize=(5, 3.8), dpi=150, layout="constrained")
    ax = figure.add_subplot()
    _, *lists, rows_of_2, rows_of_4, rows_of_8 = ways
    rows = (rows_of_2, rows_of_4, rows_of_8)
    for points, marker, color in (
        (ways[:1], "s", "#D55E00"),
        (lists, "o", "#0072B2"),
        (rows, "D", "#009E73"),
    ):
        x, y = [100 * way.dropped for way in points], [way.computed for way in points]
        ax.plot(x, y, marker, color=color, markersize=9)
        labels = [way.name.replace(", ", "\n").replace(" the ", " the\n") for way in points]
        if points is rows:  # which lie close together
            points, labels = [rows_of_4], ["rows of 2, 4 and 8"]
        for way, label in zip(points, labels, strict=True):
            is_left = way.dropped < 0.3
            ax.annotate(
                label,
                (100 * way.dropped, way.computed),
                (10, 6 if way in lists else 0) if is_left else (0, 9),
                textcoords="offset points",
                ha="left" if is_left else "center",
                va="center" if is_left else "bottom",
                color=color,
                fontsize=10,
            )
    ax.set_xlim(-2, 58)
    ax.set_ylim(0.97, None)
    ax.set_xlabel("context tokens dropped, %", fontsize=11)
    ax.set_ylabel("tokens computed for each one kept", fontsize=11)
    ax.set_title(f"Contexts of {setting.name}", fontsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    print(f"\nWrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--masks", type=int, default=20_480, help="for each setting (default 20480)"
    )
    parser.add_argument(
        "--widths", type=int, nargs="*", default=WIDTHS, help="default: 192 384 1024"
    )
    parser.add_argument("--repetitions", type=int, default=7, help="timed steps (default 7)")
    parser.add_argument("--time-width", type=int, default=384, help="of those (default 384)")
    parser.add_argument("--plot", help="a picture of the first setting to write")
    args = parser.parse_args()

    of_setting = {setting: ways_of(setting, args.masks) for setting in SETTINGS}
    for setting, ways in of_setting.items():
        print_ways(setting, ways, args.widths)
    first = SETTINGS[0]
    if args.plot:
        plot(first, of_setting[first], args.plot)
    if args.repetitions:
        print_times(first, of_setting[first][3:5], args.time_width, args.repetitions)


if __name__ == "__main__":
    main()
