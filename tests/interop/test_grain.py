"""Masks drawn in the worker processes of Grain are those drawn outside them."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jepa_masks_jax as jm

grain = pytest.importorskip("grain")
flags = pytest.importorskip("absl.flags")

flags.FLAGS.mark_as_parsed()  # which Grain 0.2.18 needs in a program that is no absl app

GRID, BATCH = (14, 14), 8
README = Path(__file__).parents[2] / ".github" / "RECIPES.md"
TEXT = README.read_text() if README.exists() else ""
SCRIPTS = re.findall(r"^```py\n(.*?)^```", TEXT, re.M | re.S)


def draw(index):
    """The masks of one record, or of one place in the order of training."""
    return jm.presets.ijepa(jax.random.fold_in(jax.random.key(0), index), GRID)


draw_batch = jax.jit(jax.vmap(draw))


class AddMasks(grain.transforms.Map):
    def map(self, batch):
        context, targets = draw_batch(batch["index"])
        where = {
            "pid": os.getpid(),
            "start_method": multiprocessing.get_start_method(),
            "devices": jax.device_count(),
        }
        return batch | where | {"context": np.asarray(context), "targets": np.asarray(targets)}


class AddMasksToRecord(grain.transforms.Map):
    def map(self, record):
        context, targets = draw(record["index"])
        return record | {"context": np.asarray(context), "targets": np.asarray(targets)}


def before_jax_starts(worker, workers):
    """Raises if JAX has started, since then the number of devices is fixed."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 3)


def add_index(index, record):
    return {"index": np.uint32(index), "record": record}


def order_of_training(records=32, epochs=1):
    order = grain.MapDataset.range(records).shuffle(seed=1).repeat(epochs)
    return order.map_with_index(add_index)


def in_batches(dataset, workers):
    dataset = dataset.batch(BATCH).map(AddMasks()).to_iter_dataset()
    options = grain.MultiprocessingOptions(num_workers=workers)
    iterator = iter(dataset.mp_prefetch(options, worker_init_fn=before_jax_starts))
    # Copies, since Grain's arrays lie in shared memory.
    batches = [{name: np.array(array) for name, array in batch.items()} for batch in iterator]
    iterator.close()
    return batches


def test_workers_draw_what_the_main_process_draws():
    outside = in_batches(order_of_training(), workers=0)
    inside = in_batches(order_of_training(), workers=2)
    assert {int(batch["pid"]) for batch in outside} == {os.getpid()}
    assert len({int(batch["pid"]) for batch in inside} - {os.getpid()}) == 2
    assert {str(batch["start_method"]) for batch in inside} == {"spawn"}
    assert {int(batch["devices"]) for batch in inside} == {3}
    assert len(inside) == len(outside) == 4
    for a, b in zip(inside, outside, strict=True):
        for name in ("index", "record", "context", "targets"):
            np.testing.assert_array_equal(a[name], b[name])


def test_one_record_at_a_time_draws_what_a_batch_draws():
    at_once = in_batches(order_of_training(), workers=0)
    one_by_one = order_of_training().map(AddMasksToRecord()).batch(BATCH)
    for a, b in zip(one_by_one, at_once, strict=True):
        for name in ("index", "context", "targets"):
            np.testing.assert_array_equal(a[name], b[name])


def test_every_epoch_has_masks_of_its_own():
    """The place in the order counts on over epochs; the number of the record does not."""
    batches = in_batches(order_of_training(records=16, epochs=2), workers=0)
    index = np.concatenate([batch["index"] for batch in batches])
    record = np.concatenate([batch["record"] for batch in batches])
    assert index.tolist() == list(range(32))
    assert sorted(record.tolist()) == sorted(2 * list(range(16)))
    context = np.concatenate([batch["context"] for batch in batches])
    assert len({mask.tobytes() for mask in context}) == 32
    of_records, _ = draw_batch(record)
    assert len({mask.tobytes() for mask in np.asarray(of_records)}) == 16


@pytest.mark.parametrize("script", SCRIPTS)
def test_recipe_of_the_readme_runs(script, tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "(16, 14, 14) (16, 4, 14, 14)" in done.stdout
