"""Times masks drawn in a Grain worker, a record or a batch at a time, and in the jitted step."""

import argparse
import time

import grain
import jax
import numpy as np
from absl import flags

import jepa_masks_jax as jm

flags.FLAGS.mark_as_parsed()  # which Grain 0.2.18 needs in a program that is no absl app

GRID, BATCH = (14, 14), 256


def draw(index):
    return jm.presets.ijepa(jax.random.fold_in(jax.random.key(0), index), GRID)


draw_one = jax.jit(draw)
draw_batch = jax.jit(jax.vmap(draw))


def now():
    """Seconds on the clock, and of CPU time, which other work on the machine does not lengthen."""
    return np.array([time.perf_counter(), time.process_time()])


class DrawEach(grain.transforms.Map):
    def map(self, indices):
        start = now()
        for index in indices:
            jax.tree.map(np.asarray, draw_one(index))
        return now() - start


class DrawBatch(grain.transforms.Map):
    def map(self, indices):
        start = now()
        jax.tree.map(np.asarray, draw_batch(indices))
        return now() - start


def in_worker(transform, batches):
    """Seconds that each batch took in the worker, but for the first, which compiles."""
    dataset = grain.MapDataset.range((batches + 1) * BATCH).batch(BATCH).map(transform)
    one_thread = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(num_workers=1)
    iterator = iter(dataset.to_iter_dataset(one_thread).mp_prefetch(workers))
    seconds = [np.array(each) for each in iterator]
    iterator.close()
    return seconds[1:]


def in_step(batches):
    """Seconds that the same masks add to a step: they are drawn, and stay where they are."""
    indices = np.arange((batches + 1) * BATCH).reshape(-1, BATCH)
    seconds = []
    for batch in indices:
        batch = jax.device_put(batch)
        start = now()
        jax.block_until_ready(draw_batch(batch))
        seconds.append(now() - start)
    return seconds[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=40, help="of 256 masks (default 40)")
    args = parser.parse_args()
    rows = {
        "in a Grain worker, one record at a time": in_worker(DrawEach(), args.batches),
        "in a Grain worker, 256 records at a time": in_worker(DrawBatch(), args.batches),
        "in the jitted step, 256 at a time": in_step(args.batches),
    }
    print("| I-JEPA's masks at 14x14 | µs a mask | µs of CPU time a mask |")
    print("|---|---:|---:|")
    for name, seconds in rows.items():
        quartiles = 1e6 * np.quantile(seconds, (0.25, 0.5, 0.75), axis=0) / BATCH
        cells = [f"{median:.1f} ({low:.1f}-{high:.1f})" for low, median, high in quartiles.T]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    main()
