"""Times the steps of a small I-JEPA loop and counts compilations, by where masks are sampled."""

import argparse
import math
import time

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jepa_masks_jax as jm

GRID, TOKENS, PIXELS, WIDTH = (14, 14), 196, 48, 32
CONTEXT, TARGET = 64, 42


def init(key):
    """Parameters of the encoder and the predictor, one block each."""
    keys = iter(jax.random.split(key, 16))

    def matrix(rows, columns):
        return jax.random.normal(next(keys), (rows, columns)) / math.sqrt(rows)

    def block():
        return {
            "qkv": matrix(WIDTH, 3 * WIDTH),
            "out": matrix(WIDTH, WIDTH),
            "up": matrix(WIDTH, 4 * WIDTH),
            "down": matrix(4 * WIDTH, WIDTH),
        }

    return {
        "embed": matrix(PIXELS, WIDTH),
        "positions": matrix(TOKENS, WIDTH),
        "encoder": [block()],
        "predictor": [block()],
    }


def standardize(tokens):
    return jax.nn.standardize(tokens, axis=-1)


def transform(blocks, tokens, valid):
    """Attention to the valid tokens and an MLP, block by block: [n, WIDTH]."""
    for block in blocks:
        query, key, value = jnp.split(standardize(tokens) @ block["qkv"], 3, axis=-1)
        scores = jnp.where(valid, query @ key.T / math.sqrt(WIDTH), -1e9)
        tokens += jax.nn.softmax(scores) @ value @ block["out"]
        tokens += jax.nn.relu(standardize(tokens) @ block["up"]) @ block["down"]
    return standardize(tokens)


def loss_of_sample(params, patches, context, targets):
    """The mean error of the predicted features of the target tokens, for one image."""
    tokens = patches @ params["embed"] + params["positions"]
    features = transform(params["encoder"], tokens, jnp.ones(TOKENS, bool))
    seen = transform(params["encoder"], jm.take_tokens(tokens, context), context.valid)

    def errors_of_target(target):
        queries = jm.take_tokens(params["positions"], target)
        valid = jnp.concatenate([context.valid, target.valid])
        both = transform(params["predictor"], jnp.concatenate([seen, queries]), valid)
        error = both[len(seen) :] - jax.lax.stop_gradient(jm.take_tokens(features, target))
        return jnp.square(error).mean(-1)

    errors = jax.vmap(errors_of_target)(targets)
    return jnp.sum(errors, where=targets.valid) / jnp.maximum(jnp.sum(targets.valid), 1)


def update(params, patches, context, targets):
    def loss(params):
        losses = jax.vmap(loss_of_sample, in_axes=(None, 0, 0, 0))(
            params, patches, context, targets
        )
        return losses.mean()

    return jax.tree.map(lambda old, slope: old - 0.01 * slope, params, jax.grad(loss)(params))


@jax.jit
def step_with_masks(params, patches, context, targets):
    return update(params, patches, context, targets)


@jax.jit
def step_that_samples(params, patches, key, step):
    def sample(key):
        mask_key, index_key = jax.random.split(key)
        context, targets = jm.presets.ijepa(mask_key, GRID)
        return (
            jm.token_indices(context, size=CONTEXT, key=index_key),
            jax.vmap(lambda target: jm.token_indices(target, size=TARGET))(targets),
        )

    keys = jax.random.split(jax.random.fold_in(key, step), len(patches))
    return update(params, patches, *jax.vmap(sample)(keys))


def block_of(rng, height, width):
    top, left = rng.integers(GRID[0] - height + 1), rng.integers(GRID[1] - width + 1)
    block = np.zeros(GRID, bool)
    block[top : top + height, left : left + width] = True
    return block


def collate(rng, batch):
    """Samples on the host: sizes shared by the batch, contexts cut to the shortest of them."""
    count, aspect = int(TOKENS * rng.uniform(0.15, 0.2)), rng.uniform(0.75, 1.5)
    height, width = round(math.sqrt(count * aspect)), round(math.sqrt(count / aspect))
    side = round(math.sqrt(int(TOKENS * rng.uniform(0.85, 1))))
    contexts, targets = [], []
    for _ in range(batch):
        blocks = [block_of(rng, height, width) for _ in range(4)]
        contexts.append(np.flatnonzero(block_of(rng, side, side) & ~np.any(blocks, axis=0)))
        targets.append([np.flatnonzero(block) for block in blocks])
    shortest = min(map(len, contexts))
    return [
        jm.TokenIndices(np.asarray(lists, np.int32), np.ones(np.shape(lists), bool), TOKENS)
        for lists in ([context[:shortest] for context in contexts], targets)
    ]


def plot(seconds):
    """Plots the seconds of each step."""
    figure = Figure(figsize=(7.5, 3), dpi=200, layout="constrained")
    ax = figure.add_subplot()
    for (name, times), color in zip(seconds.items(), ("#D55E00", "#0072B2"), strict=True):
        ax.plot(range(1, len(times) + 1), times, "o-", color=color, label=f"masks sampled {name}")
    ax.set(xlabel="step", ylabel="seconds", xticks=range(1, len(times) + 1), ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False, fontsize=12)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each loop (default 20)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (default 64)")
    parser.add_argument(
        "--plot", metavar="FILE", help="write a picture of the seconds of each step"
    )
    args = parser.parse_args()

    compiled = []

    def note(event, _, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    start_params = init(key)
    patches = rng.normal(size=(args.batch, TOKENS, PIXELS)).astype(np.float32)
    loops = {
        "by a NumPy collator on the host": lambda params, _: step_with_masks(
            params, patches, *collate(rng, args.batch)
        ),
        "in the step": lambda params, step: step_that_samples(params, patches, key, step),
    }
    seconds = {}
    print("| masks sampled | compilations | seconds | seconds of CPU time |")
    print("|---|---:|---:|---:|")
    for name, take_step in loops.items():
        compiled.clear()
        cpu_start, params, seconds[name] = time.process_time(), start_params, []
        for step in range(args.steps):
            start = time.perf_counter()
            params = jax.block_until_ready(take_step(params, step))
            seconds[name].append(time.perf_counter() - start)
        total, cpu_seconds = sum(seconds[name]), time.process_time() - cpu_start
        print(f"| {name} | {len(compiled)} | {total:.0f} | {cpu_seconds:.0f} |", flush=True)
    if args.plot:
        plot(seconds).savefig(args.plot)


if __name__ == "__main__":
    main()
