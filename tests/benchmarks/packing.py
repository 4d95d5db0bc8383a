"""Compares ways to hand samples to a model: what they drop, what they compute, what it costs.

A list of one sample is as long as a quantile of the counts. A batch can be cut to its shortest
context. A row holds several samples in balanced order, and is as long as the 99 % quantile of the
rows' totals; a predictor reads the context and each target from two lists, from one list of both,
or from the plain grid. FLOPs are the compiler's, for a training step of encoder, predictor and
teacher, forward and backward. Nothing is timed.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jepa_masks_jax as jm

POOL, GROUPS = 256, (8, 16, 32, 64, 256)
STEP_BATCH, HEAD_WIDTH = 64, 64
ENCODER_DEPTH, PREDICTOR_DEPTH = 6, 3
WIDTHS = (192, 384, 1024)


class Setting(NamedTuple):
    name: str
    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    """draws the context of one sample, bool[*grid], and its targets, bool[M, *grid]"""
    grid: tuple[int, ...]
    truncated: int
    """the size of the batches that are cut to their shortest mask"""
    device: int
    """how many samples of a pool a device holds, 0 if the masks depend on their images"""
    predictor: str
    """how the predictor of a row reads: one list of context and target, or the grid"""
    has_teacher: bool = True


def ijepa(grid):
    return lambda key: tuple(jm.presets.ijepa(key, grid))


def vjepa(preset):
    def draw(key):
        target = preset(key, (8, 14, 14))
        return ~target, target[None]

    return draw


def mae_of_mixed_shapes(key):
    """Draws height and width, each from 8 to 32 tokens, and MAE's masks of such an image."""
    sides_key, mask_key = jax.random.split(key)
    sides = jax.random.randint(sides_key, (2,), 8, 33)
    target = jm.presets.mae(mask_key, (32, 32), within=sides)
    return jm.inside((32, 32), sides) & ~target, target[None]


SHORT, LONG = jm.presets.vjepa_short_range, jm.presets.vjepa_long_range
SETTINGS = [
    Setting("I-JEPA, 14x14", ijepa((14, 14)), (14, 14), 128, 16, "one list"),
    Setting("I-JEPA, 16x16", ijepa((16, 16)), (16, 16), 128, 16, "one list"),
    Setting("V-JEPA, short range, 8x14x14", vjepa(SHORT), (8, 14, 14), 24, 24, "the grid"),
    Setting("V-JEPA, long range, 8x14x14", vjepa(LONG), (8, 14, 14), 24, 24, "the grid"),
    Setting("MAE, 8x8 to 32x32", mae_of_mixed_shapes, (32, 32), 128, 0, "one list", False),
]


# What is dropped and computed


class Counts(NamedTuple):
    """The token counts of many samples."""

    context: np.ndarray
    """int32[samples]"""
    target: np.ndarray
    """int32[samples, M]"""


def count_all(setting, samples):
    @jax.jit
    def count(keys):
        tokens = math.prod(setting.grid)
        masks = jax.vmap(setting.draw)(keys)
        return [mask.reshape(len(keys), -1, tokens).sum(2, dtype=jnp.int32) for mask in masks]

    keys = jax.random.split(jax.random.key(0), samples)
    parts = [count(keys[i : i + 512]) for i in range(0, samples, 512)]
    context, target = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Counts(context[:, 0], target)


@functools.cache
def ordering(per_row):
    return jax.jit(jax.vmap(lambda key, c: jm.balanced_order(key, c, per_row=per_row)))


def totals_of(counts, per_row, group):
    """Puts samples into rows within groups: the counts of each row, those of targets [rows, M]."""
    groups = len(counts.context) // group
    context, target = (array[: groups * group] for array in counts)
    keys = jax.random.split(jax.random.key(1), groups)
    order = np.asarray(ordering(per_row)(keys, context.reshape(groups, group)))
    order = (order + np.arange(groups)[:, None] * group).reshape(-1, per_row)
    return Counts(context[order].sum(1), target[order].sum(1))


def length_of(totals, quantile=0.99, multiple=1):
    length = int(np.quantile(totals, quantile, method="inverted_cdf"))
    return -(-length // multiple) * multiple


def dropped(totals, length):
    return 1 - np.minimum(totals, length).sum() / totals.sum()


def computed(totals, length):
    return length * totals.size / np.minimum(totals, length).sum()


def print_head(title, *heads):
    print(f"\n| {title} | {' | '.join(heads)} |\n|---{'|---:' * len(heads)}|")


def print_line(name, *cells):
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def percent(share):
    return f"{share:.2%}".replace("%", " %")


def cell_of(totals, multiple=1):
    length = length_of(totals, multiple=multiple)
    return f"{computed(totals, length):.2f} ({length:,}, {percent(dropped(totals, length))})"


def print_groups(of_setting):
    """Rows of two by how many samples are put in order together."""
    print_head("rows of 2", *(setting.name for setting in of_setting))
    for group in GROUPS:
        rows = [totals_of(counts, 2, group).context for counts in of_setting.values()]
        print_line(f"groups of {group}", *map(cell_of, rows))
    cells = [
        cell_of(totals_of(counts, 2, POOL // setting.device * setting.device).context)
        if setting.device
        else ""
        for setting, counts in of_setting.items()
    ]
    print_line("a pool", *cells)


def print_multiples(of_setting):
    """Lengths rounded up to a multiple of 128, by how many samples share a row."""
    print_head("multiples of 128", *(setting.name for setting in of_setting))
    for per_row in (1, 2, 3, 4, 6):
        group = POOL // per_row * per_row
        rows = [totals_of(counts, per_row, group).context for counts in of_setting.values()]
        print_line(f"rows of {per_row}", *(cell_of(totals, 128) for totals in rows))


def print_batches(of_setting):
    """One list for the whole batch, `token_indices(context, size=..., per_row=B)`."""
    print_head("one list for a batch", *(setting.name for setting in of_setting))
    for batch in (32, 128, 256):
        rows = [totals_of(counts, batch, batch).context for counts in of_setting.values()]
        print_line(f"of {batch}", *map(cell_of, rows))


# What it costs


class Way(NamedTuple):
    """Lengths of lists or rows, and how the predictor reads."""

    name: str
    per_row: int
    """0 where a batch is cut to its shortest mask"""
    context: int
    """length of the list of contexts"""
    predictor: str
    """how it reads: two lists, one list or the grid"""
    target: int
    """length of the list of a target"""
    both: int
    """length of the list of a target and the context"""
    dropped: float
    computed: float
    """tokens computed for each context token that is kept"""
    needed: float
    """tokens computed by the predictor for each that it needs"""


def way_of(name, counts, per_row, predictor, quantile=0.99):
    totals = totals_of(counts, per_row, POOL)
    length = length_of(totals.context, quantile)
    target = length_of(totals.target)
    of_both = totals.context[:, None] + totals.target
    both = length_of(of_both)
    needed = 1.0
    if predictor == "two lists":
        kept = np.minimum(totals.context, length)[:, None] + np.minimum(totals.target, target)
        needed = (length + target) * kept.size / kept.sum()
    elif predictor == "one list":
        needed = computed(of_both, both)
    of_context = dropped(totals.context, length), computed(totals.context, length)
    return Way(name, per_row, length, predictor, target, both, *of_context, needed)


def ways_of(setting, counts):
    cut = counts.context[: len(counts.context) // setting.truncated * setting.truncated]
    cut = cut.reshape(-1, setting.truncated)
    shortest = cut.min(1)
    share = 1 - shortest.sum() * setting.truncated / cut.sum()
    name = f"cut to the shortest of {setting.truncated}"
    return [
        Way(name, 0, round(shortest.mean()), "", 0, 0, share, 1.0, math.nan),
        *(
            way_of(f"lists, {quantile} % quantile", counts, 1, "two lists", quantile / 100)
            for quantile in (5, 50, 99)
        ),
        way_of("rows of 2, two lists", counts, 2, "two lists"),
        *(
            way_of(f"rows of {per_row}, {setting.predictor}", counts, per_row, setting.predictor)
            for per_row in (2, 4, 8)
        ),
    ]


def layers(width, depth):
    """Parameters of the layers, float32."""
    sides = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
    layer = {name: jnp.zeros((width * a, width * b)) for name, (a, b) in sides.items()}
    return [layer] * depth


def transform(params, x, mask=None):
    """float[n, width] and bool[n, n] or None."""
    for layer in params:
        qkv = jax.nn.standardize(x) @ layer["qkv"]
        q, k, v = (part.reshape(len(x), -1, HEAD_WIDTH) for part in jnp.split(qkv, 3, axis=1))
        mask_of_heads = None if mask is None else mask[None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask_of_heads)
        x = x + mixed.reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(jax.nn.standardize(x) @ layer["up"]) @ layer["down"]
    return x


def row_loss(setting, way, params, patches, context, targets):
    """The loss of one row of G samples: patches float[G, N, width]."""
    G, N, width = patches.shape
    seen = jm.token_indices(context, size=way.context, per_row=G)
    x = transform(
        params["encoder"],
        jm.take_tokens(patches.reshape(G * N, width), seen),
        jm.attention_mask(seen),
    )
    x, positions = x @ params["in"], params["positions"]
    goal = patches
    if setting.has_teacher:
        goal = jax.vmap(lambda x: transform(params["teacher"], x))(patches)
    goal = jax.lax.stop_gradient(goal.reshape(G * N, width))

    if way.predictor == "the grid":
        grids = jm.put_tokens(x, seen).reshape(G, N, -1) + positions
        predicted = jax.vmap(lambda x: transform(params["predictor"], x))(grids)
        error = predicted.reshape(G * N, -1) @ params["out"] - goal
        return jnp.sum(error**2, where=targets.reshape(-1, 1))

    def of_target(target):
        at = jm.token_indices(target, size=way.target, per_row=G)
        if way.predictor == "one list":
            both = jm.token_indices(context | target, size=way.both, per_row=G)
            tokens = jm.take_tokens(jm.put_tokens(x, seen), both) + positions[both.place]
            tokens = transform(params["predictor"], tokens, jm.attention_mask(both))
            predicted = jm.take_tokens(jm.put_tokens(tokens, both), at)
        else:
            tokens = jnp.concatenate([x + positions[seen.place], positions[at.place]])
            tokens = transform(params["predictor"], tokens, jm.attention_mask((seen, at)))
            predicted = tokens[way.context :]
        error = predicted @ params["out"] - jm.take_tokens(goal, at)
        return jnp.sum(error**2, where=at.valid[:, None])

    return jnp.sum(jax.vmap(of_target, in_axes=1)(targets))


@functools.cache
def flops_of(setting, way, width):
    """Counts the FLOPs of a step of STEP_BATCH samples."""
    rows, tokens = STEP_BATCH // way.per_row, math.prod(setting.grid)
    narrow = -(-width // 2 // HEAD_WIDTH) * HEAD_WIDTH  # the predictor's

    def step(patches, context, targets):
        params = {
            "encoder": layers(width, ENCODER_DEPTH),
            "teacher": layers(width, ENCODER_DEPTH),
            "predictor": layers(narrow, PREDICTOR_DEPTH),
            "positions": jnp.zeros((tokens, narrow)),
            "in": jnp.zeros((width, narrow)),
            "out": jnp.zeros((narrow, width)),
        }

        def loss(params):
            of_row = functools.partial(row_loss, setting, way, params)
            return jnp.sum(jax.vmap(of_row)(patches, context, targets))

        return jax.grad(loss)(params)

    masks = jax.eval_shape(setting.draw, jax.random.key(0))
    in_rows = [jax.ShapeDtypeStruct((rows, way.per_row, *mask.shape), mask.dtype) for mask in masks]
    patches = jax.ShapeDtypeStruct((rows, way.per_row, tokens, width), jnp.float32)
    return jax.jit(step).lower(patches, *in_rows).cost_analysis()["flops"]


def print_ways(setting, ways, widths):
    heads = ["length", "dropped", "computed", "predictor"]
    print_head(setting.name, *heads, *(f"FLOPs at {width}" for width in widths))
    base = {width: flops_of(setting, ways[3], width) for width in widths}
    for way in ways:
        cells = [str(way.context), percent(way.dropped), f"{way.computed:.2f}"]
        if way.per_row:
            cells.append(f"{way.needed:.2f}")
            cells += [f"{flops_of(setting, way, w) / base[w]:.2f}" for w in widths]
        else:
            cells += [""] * (1 + len(widths))
        print_line(way.name, *cells)


def plot(setting, ways, path):
    """Plots what is computed against what is dropped, a point for each way."""
    figure = Figure(figsize=(5, 3.8), dpi=150, layout="constrained")
    ax = figure.add_subplot()
    cut, *lists, _, rows_of_2, rows_of_4, rows_of_8 = ways
    rows = (rows_of_2, rows_of_4, rows_of_8)
    for points, marker, color in (
        ([cut], "s", "#D55E00"),
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
    parser.add_argument("--plot", help="a picture of the first setting to write")
    args = parser.parse_args()

    of_setting = {setting: count_all(setting, args.masks) for setting in SETTINGS}
    for print_table in (print_groups, print_multiples, print_batches):
        print_table(of_setting)
    for setting, counts in of_setting.items():
        print_ways(setting, ways_of(setting, counts), args.widths)
    if args.plot:
        plot(SETTINGS[0], ways_of(SETTINGS[0], of_setting[SETTINGS[0]]), args.plot)


if __name__ == "__main__":
    main()
