import contextlib
import functools
import inspect
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jepa_masks_jax as jm
from jepa_masks_jax import __main__ as command

FUNCTIONS = {
    "block_mask": (jm.block_mask, (14, 14), {}),
    "spatiotemporal_mask": (jm.spatiotemporal_mask, (8, 14, 14), {}),
    "multi_block_mask": (jm.multi_block_mask, (14, 14), {}),
    "ijepa_masks": (jm.ijepa_masks, (14, 14), {}),
    "vjepa_mask": (jm.vjepa_mask, (8, 14, 14), {}),
    "random_mask": (jm.random_mask, (14, 14), {"mask_ratio": 0.75}),
    "random_tube_mask": (jm.random_tube_mask, (8, 14, 14), {"mask_ratio": 0.9}),
    "object_mask": (jm.object_mask, (7,), {}),
    "ijepa": (jm.ijepa_masks, (14, 14), {}),
    "vjepa_short_range": (jm.vjepa_mask, (8, 14, 14), {}),
    "vjepa_long_range": (
        jm.vjepa_mask,
        (8, 14, 14),
        {"num_blocks": 2, "spatial_scale": (0.7, 0.7)},
    ),
    "mae": (jm.random_mask, (14, 14), {"mask_ratio": 0.75}),
    "videomae_tube": (jm.random_tube_mask, (8, 14, 14), {"mask_ratio": 0.9}),
    "cjepa": (jm.object_mask, (7,), {}),
}
STRATEGIES = [name for name in FUNCTIONS if name.endswith(("_mask", "_masks"))]
PRESETS = [name for name in FUNCTIONS if name not in STRATEGIES]


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(capsys):
    """Runs the command and returns what it printed."""

    def run(line):
        command.main(line.split())
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


@pytest.fixture
def fails(capsys):
    """Runs the command, which must fail, and returns its one line of complaint."""

    def fails(line):
        with pytest.raises(SystemExit) as stop:
            command.main(line.split(" "))
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.endswith("\n")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return fails


def read_npz(path):
    """Returns bool[batch, *grid] and bool[batch, num_targets, *grid]."""
    with np.load(path) as file:
        arrays = dict(file)
    context = arrays.pop("context")
    ((name, target),) = arrays.items()
    return context, target if name == "targets" else target[:, None]


@functools.cache
def draw_directly(function, shape, batch, seed, options):
    keys = jax.random.split(jax.random.key(seed), batch)
    return jax.jit(jax.vmap(lambda key: function(key, shape, **dict(options))))(keys)


def draw(name, grid=None, *, batch=5, seed=0, **options):
    """The same masks by a direct call."""
    function, default, bound = FUNCTIONS[name]
    shape = grid or default
    shape = shape[0] if len(shape) == 1 else shape
    masks = draw_directly(function, shape, batch, seed, tuple((bound | options).items()))
    if isinstance(masks, jm.ContextTargetMasks):
        return np.asarray(masks.context), np.asarray(masks.targets)
    return ~np.asarray(masks), np.asarray(masks)[:, None]


def assert_same_masks(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def shown_frames(text, grid):
    """The characters of the printed mask: str[shown frames, height, width], and which frames."""
    _, height, width = (1, 1, *grid)[-3:]
    legend, *rows = text.splitlines()[1 : height + 2]
    listed = re.search(r"frames ([0-9, ]+)", legend)
    frames = [int(number) for number in listed[1].split(",")] if listed else [0]
    length = len(frames) * (width + 2) - 2
    assert max(map(len, rows)) <= length
    cells = np.array([list(row.ljust(length) + "  ") for row in rows])
    return cells.reshape(height, len(frames), width + 2)[..., :width].swapaxes(0, 1), frames


def assert_text_shows(text, context, targets):
    """Compares the printed mask with bool[*grid] and bool[num_targets, *grid]."""
    shown, frames = shown_frames(text, context.shape)
    video = (1, 1, *context.shape)[-3:]
    assert frames == sorted(set(frames))
    assert (frames[0], frames[-1]) == (0, video[0] - 1)
    context = context.reshape(video)[frames]
    targets = targets.reshape(-1, *video)[:, frames]
    target = targets.any(axis=0)
    np.testing.assert_array_equal(shown == ".", context & ~target)
    np.testing.assert_array_equal(shown == " ", ~context & ~target)
    if len(targets) == 1:
        np.testing.assert_array_equal(shown == "#", target)
    else:
        numbers = shown[target].astype(int)
        assert targets[:, target][numbers - 1, np.arange(len(numbers))].all()


def counts_of(masks):
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    return [min(counts), sum(counts) / len(counts), max(counts)]


def assert_text_counts(text, context, targets):
    """Compares the printed counts with bool[batch, *grid] and bool[batch, num_targets, *grid]."""
    target = targets.any(axis=1)
    expected = {"context": counts_of(context), "target": counts_of(target)}
    if targets.shape[1] > 1:
        expected["each target"] = counts_of(targets.reshape(-1, *target.shape[1:]))
    table = re.findall(r"^ *(context|target|each target) +(\d+) +([\d.]+) +(\d+)$", text, re.M)
    assert [side for side, *_ in table] == list(expected)
    for side, *numbers in table:
        assert [float(number) for number in numbers] == pytest.approx(expected[side], abs=0.051)
    (ratio,) = re.findall(r"^ratio ([\d.]+) ", text, re.M)
    assert float(ratio) == pytest.approx(np.mean(target), abs=0.00051)


@pytest.fixture(scope="module")
def every_strategy(tmp_path_factory):
    """What the command prints, and its folder, when no strategy is named."""
    folder = tmp_path_factory.mktemp("all")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as text:
        command.main(["--batch", "5"])
    return text.getvalue(), folder


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_strategy_the_text_shows_masks_of_every_one(every_strategy, name):
    text = every_strategy[0]
    grid = "x".join(map(str, FUNCTIONS[name][1]))
    (part,) = re.findall(rf"^{name} {grid}, 5 masks\n.*?^ratio .*?\n", text, re.M | re.S)
    context, targets = draw(name)
    assert_text_shows(part, context[0], targets[0])
    assert_text_counts(part, context, targets)


def test_without_a_strategy_it_makes_one_picture(every_strategy):
    text, folder = every_strategy
    assert re.findall(r"^(\w+) [\dx]+, 5 masks$", text, re.M) == STRATEGIES
    assert text.endswith("Wrote masks.png\n")
    assert os.listdir(folder) == ["masks.png"]
    assert_is_a_picture(folder / "masks.png")


@pytest.mark.parametrize("name", PRESETS)
def test_text_and_file_of_a_preset_show_its_masks(run, name):
    text = run(f"{name} --batch 5 --out masks.npz")
    context, targets = read_npz("masks.npz")
    assert_same_masks((context, targets), draw(name))
    assert text.startswith(f"{name} {'x'.join(map(str, FUNCTIONS[name][1]))}, 5 masks\n")
    assert_text_shows(text, context[0], targets[0])
    assert_text_counts(text, context, targets)


@pytest.mark.parametrize(
    ("line", "name", "grid", "options"),
    [
        (
            "block --grid 6x9 --num-targets 2 --target-scale 0.3 0.4 --target-aspect-ratio 1.5 3",
            "block_mask",
            (6, 9),
            {"num_targets": 2, "target_scale": (0.3, 0.4), "target_aspect_ratio": (1.5, 3.0)},
        ),
        (
            "spatiotemporal --grid 4x6x8 --num-targets 1 --temporal-extent 1 3 "
            "--spatial-scale 0.3 0.6",
            "spatiotemporal_mask",
            (4, 6, 8),
            {"num_targets": 1, "temporal_extent": (1, 3), "spatial_scale": (0.3, 0.6)},
        ),
        (
            "multi-block --grid 7x7 --num-blocks 2 --mask-ratio 0.8",
            "multi_block_mask",
            (7, 7),
            {"num_blocks": 2, "mask_ratio": 0.8},
        ),
        (
            "ijepa_masks --grid 9x8 --num-targets 3 --target-scale 0.1 0.12 "
            "--target-aspect-ratio 0.3 0.5 --context-scale 0.2 0.3 --min-keep 12 "
            "--sampling reference",
            "ijepa_masks",
            (9, 8),
            {
                "num_targets": 3,
                "target_scale": (0.1, 0.12),
                "target_aspect_ratio": (0.3, 0.5),
                "context_scale": (0.2, 0.3),
                "min_keep": 12,
                "sampling": "reference",
            },
        ),
        (
            "ijepa --grid 9x8 --num-targets 2 --allow-overlap",
            "ijepa",
            (9, 8),
            {"num_targets": 2, "allow_overlap": True},
        ),
        (
            "vjepa --grid 5x6x7 --num-blocks 2 --spatial-scale 0.2 0.3 --temporal-scale 0.3 0.7 "
            "--aspect-ratio 2 3 --max-temporal-keep 0.8",
            "vjepa_mask",
            (5, 6, 7),
            {
                "num_blocks": 2,
                "spatial_scale": (0.2, 0.3),
                "temporal_scale": (0.3, 0.7),
                "aspect_ratio": (2.0, 3.0),
                "max_temporal_keep": 0.8,
            },
        ),
        ("random --grid 3x3 --mask-ratio 0.2", "random_mask", (3, 3), {"mask_ratio": 0.2}),
        (
            "random-tube --grid 2x3x3 --mask-ratio 0.5",
            "random_tube_mask",
            (2, 3, 3),
            {"mask_ratio": 0.5},
        ),
        ("object --grid 9 --num-masked 4", "object_mask", (9,), {"num_masked": 4}),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) and " " in value else "",
)
def test_grid_seed_batch_and_options_reach_the_function(run, line, name, grid, options):
    text = run(f"{line} --seed 3 --batch 8 --out masks.npz")
    context, targets = read_npz("masks.npz")
    assert_same_masks((context, targets), draw(name, grid, batch=8, seed=3, **options))
    assert_text_shows(text, context[0], targets[0])
    assert_text_counts(text, context, targets)


def test_json_holds_the_index_lists_of_the_masks(run):
    run("block --batch 5 --out masks.json")
    file = json.loads(Path("masks.json").read_text())
    masks = file.pop("masks")
    assert file == {"strategy": "block_mask", "grid": [14, 14], "seed": 0}
    _, targets = draw("block_mask")
    assert [jm.MaskSpec(**mask) for mask in masks] == jm.to_mask_specs(targets[:, 0])


def test_json_holds_each_target_of_ijepa(run):
    run("ijepa_masks --batch 5 --out masks.json")
    masks = json.loads(Path("masks.json").read_text())["masks"]
    contexts, targets = draw("ijepa_masks")
    for mask, context, separate in zip(masks, contexts, targets, strict=True):
        assert mask["context_indices"] == np.flatnonzero(context).tolist()
        assert mask["target_indices"] == [np.flatnonzero(target).tolist() for target in separate]


def assert_is_a_picture(path):
    contents = Path(path).read_bytes()
    assert 0 < len(contents) < 300_000
    with Image.open(io.BytesIO(contents)) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 10


def test_picture_over_an_image_of_ones_own(run):
    Image.new("RGB", (90, 60), (10, 200, 30)).save("photo.jpg")
    run("block --grid 4x4 --batch 3 --image photo.jpg --out own.png")
    assert_is_a_picture("own.png")
    with Image.open("own.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - [10, 200, 30]).max(axis=1) < 12).mean() > 0.1


def test_running_again_replaces_the_file(run, tmp_path):
    for seed in (3, 4):
        run(f"block --grid 4x4 --batch 2 --seed {seed} --out masks.json")
        assert json.loads(Path("masks.json").read_text())["seed"] == seed
    assert os.listdir(tmp_path) == ["masks.json"]


def half_written(path, contents):
    with open(path, "wb") as file:
        file.write(contents[: len(contents) // 2])
    raise OSError(28, "No space left on device")


def not_replaced(path, target):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("method", "broken", "reason"),
    [
        ("write_bytes", half_written, "No space left on device"),
        ("replace", not_replaced, "Permission denied"),
    ],
)
def test_a_failed_write_leaves_what_was_there(fails, tmp_path, monkeypatch, method, broken, reason):
    Path("masks.npz").write_bytes(b"what was there")
    monkeypatch.setattr(Path, method, broken)
    error = fails("block --grid 4x4 --batch 2 --out masks.npz")
    assert "masks.npz" in error
    assert reason in error
    assert os.listdir(tmp_path) == ["masks.npz"]
    assert (tmp_path / "masks.npz").read_bytes() == b"what was there"


@pytest.mark.parametrize(
    ("line", "offenders"),
    [
        ("nope", ["STRATEGY", "nope"]),
        ("--batch 3 block", ["block"]),
        ("block extra", ["extra"]),
        ("block --nope 3", ["--nope"]),
        ("--grid 14x14", ["--grid"]),
        ("all --num-targets 3", ["--num-targets"]),
        ("block --batch", ["--batch"]),
        ("block --batch 0", ["--batch", "0"]),
        ("block --batch -3", ["--batch", "-3"]),
        ("block --batch many", ["--batch", "many"]),
        ("block --batch 2.5", ["--batch", "2.5"]),
        ("block --batch 99999999999", ["--batch", "99999999999"]),
        ("--seed -1", ["--seed", "-1"]),
        ("--seed 4294967296", ["--seed", "4294967296"]),
        ("--seed 1.5", ["--seed", "1.5"]),
        ("block --grid 14", ["grid", "14"]),
        ("block --grid 14,14", ["--grid", "14,14"]),
        ("block --grid -1x4", ["--grid"]),
        ("block --grid 0x4", ["grid", "0"]),
        ("block --grid 1x1", ["grid", "1"]),
        ("block --grid 2x2x2x2", ["grid", "2"]),
        ("block --grid 99999999x99999999", ["grid", "99999999"]),
        ("block --grid ", ["--grid"]),
        ("ijepa --grid 8x14x14", ["grid", "8, 14, 14"]),
        ("random-tube --grid 14x14", ["grid", "14, 14"]),
        ("object --grid 3x4", ["3", "4"]),
        ("object --grid 1", ["1"]),
        ("block --num-targets 0", ["num_targets", "0"]),
        ("block --num-targets 2.5", ["--num-targets", "2.5"]),
        ("block --target-scale 0.5", ["--target-scale"]),
        ("block --target-scale 0.5 0.1", ["target_scale", "0.5"]),
        ("block --target-scale nan nan", ["target_scale", "nan"]),
        ("block --target-scale 0.5 1.5", ["target_scale", "1.5"]),
        ("spatiotemporal --temporal-extent 4 2", ["temporal_extent", "4"]),
        ("spatiotemporal --temporal-extent 2.0 4", ["--temporal-extent", "2.0"]),
        ("random --mask-ratio 1.5", ["mask_ratio", "1.5"]),
        ("ijepa --min-keep 1000", ["min_keep", "1000"]),
        ("ijepa --sampling other", ["sampling", "other"]),
        ("object --num-masked 7", ["num_masked", "7"]),
        ("block --out masks.txt", ["--out", "masks.txt"]),
        ("block --out masks", ["--out", "masks"]),
        ("block --out ", ["--out"]),
        ("block --out nowhere/masks.png", ["--out", "nowhere"]),
        ("--out masks.npz", ["--out", ".npz"]),
        ("all --out masks.json", ["--out", ".json"]),
        ("block --image nowhere.jpg", ["--image", "nowhere.jpg"]),
        ("block --image .", ["--image"]),
        ("block --image ", ["--image"]),
        (f"block --grid 4x4 --batch 1 --image {__file__}", ["--image", __file__]),
        (f"block --out masks.npz --image {__file__}", ["--image"]),
    ],
    ids=lambda value: value.replace(__file__, "FILE") if isinstance(value, str) else "",
)
def test_a_bad_argument_is_named_in_one_line(fails, tmp_path, line, offenders):
    error = fails(line)
    assert error.startswith("python -m jepa_masks_jax: error: ")
    for offender in offenders:
        assert offender in error
    assert os.listdir(tmp_path) == []


def test_masks_that_do_not_fit_in_memory_end_with_one_line(fails, monkeypatch):
    def block_mask(key, grid, *, num_targets=4):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")

    monkeypatch.setitem(command.STRATEGIES, "block_mask", (block_mask, (14, 14)))
    assert "memory" in fails("block")


def test_without_matplotlib_the_text_comes_with_a_line_on_how_to_get_pictures(
    run, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = run("block --batch 5")
    assert_text_counts(text, *draw("block_mask"))
    assert [line for line in text.splitlines() if "pip install" in line] == text.splitlines()[-1:]
    assert "Wrote" not in text
    assert os.listdir(tmp_path) == []


def help_of(line, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(line.split())
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_strategy_and_preset(capsys):
    text = help_of("--help", capsys)
    assert text == help_of("-h", capsys)
    presets = [name for name, value in vars(jm.presets).items() if hasattr(value, "keywords")]
    for name in [*STRATEGIES, *presets]:
        assert re.search(rf"^ +{name}\b", text, re.M)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_of_a_strategy_names_every_option(capsys, name):
    text = help_of(f"{name} --help", capsys)
    parameters = list(inspect.signature(FUNCTIONS[name][0]).parameters)
    for option in ["grid", "batch", "seed", "out", "image", *parameters[2:]]:
        flag = "--" + option.replace("_", "-")
        ((_, explanation),) = re.findall(rf"^  ({flag})\b[ A-Z]*\n?(.*)", text, re.M)
        assert explanation.strip()


def test_in_a_closed_pipe_there_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "jepa_masks_jax", "block_mask", "--batch", "2", "--out", "m.npz"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert ended.stderr == b""


def test_as_a_process_it_ends_with_its_status():
    ended = subprocess.run(
        [sys.executable, "-m", "jepa_masks_jax", "block", "--num-targets", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "num_targets" in ended.stderr
