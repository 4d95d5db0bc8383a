"""The command prints, draws and saves the masks of its options, and fails in one line."""

import contextlib
import functools
import importlib.util
import inspect
import io
import json
import math
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
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
    "box_mask": (jm.box_mask, (14, 14), {"num_boxes": 4, "extent": ((2, 6), (2, 6))}),
    "blockwise_mask": (jm.blockwise_mask, (14, 14), {"num_masked": 75}),
    "inverse_block_mask": (jm.inverse_block_mask, (14, 14), {"mask_ratio": 0.65}),
    "span_mask": (jm.span_mask, (70,), {"mask_ratio": 0.65, "span": 10}),
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
    "vjepa21_image": (jm.vjepa_mask, (16, 16), {"num_blocks": 10}),
    "mae": (jm.random_mask, (14, 14), {"mask_ratio": 0.75}),
    "mae_st": (jm.random_mask, (8, 14, 14), {"num_masked": 1412}),
    "audiomae": (jm.random_mask, (64, 8), {"mask_ratio": 0.8}),
    "simmim": (jm.random_mask, (48, 48), {"mask_ratio": 0.6, "cell": (8, 8)}),
    "pixio": (jm.random_mask, (16, 16), {"mask_ratio": 0.75, "cell": (4, 4)}),
    "videomae_tube": (jm.random_tube_mask, (8, 14, 14), {"mask_ratio": 0.9}),
    "beit": (jm.blockwise_mask, (14, 14), {"num_masked": 75}),
    "dinov3": (jm.blockwise_mask, (16, 16), {"mask_ratio": (0.1, 0.5), "min_block": 4}),
    "capi": (jm.inverse_block_mask, (16, 16), {"mask_ratio": 0.65}),
    "wav2vec2": (jm.span_mask, (70,), {"mask_ratio": 0.65, "span": 10}),
    "hubert": (jm.span_mask, (70,), {"mask_ratio": 0.8, "span": 10}),
    "cjepa": (jm.object_mask, (7,), {}),
}
STRATEGIES = [name for name in FUNCTIONS if name.endswith(("_mask", "_masks"))]
PRESETS = [name for name in FUNCTIONS if name not in STRATEGIES]


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


@pytest.fixture
def always_draws(monkeypatch):
    """Makes block_mask, or another strategy, draw the given masks whatever the key."""

    def always_draws(masks, name="block_mask"):
        grid = np.shape(masks.context if isinstance(masks, tuple) else masks)
        drawn = jax.tree.map(jnp.asarray, masks)
        monkeypatch.setitem(command.STRATEGIES, name, (lambda key, grid: drawn, grid))

    return always_draws


@pytest.fixture
def quickly(always_draws):
    """Lets block_mask return at once, for tests of all that follows."""
    always_draws(from_rows("..#", ".##"))


def from_rows(*rows, target="#"):
    """Reads a mask from the characters of its rows."""
    return np.array([list(row) for row in rows]) == target


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
    shape = shape[0] if function is jm.object_mask else shape
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
    video = math.prod(context.shape[:-2]), *(1, *context.shape)[-2:]
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
            "block_mask --grid 6x9 --set num_targets=2 target_scale=0.3,0.4 "
            "target_aspect_ratio=1.5,3",
            "block_mask",
            (6, 9),
            {"num_targets": 2, "target_scale": (0.3, 0.4), "target_aspect_ratio": (1.5, 3.0)},
        ),
        ("ijepa_masks --grid 60", "ijepa_masks", (60,), {}),
        (
            "box_mask --grid 2x3x4x5 --set num_boxes=2 extent=(None,2,(1,3),5)",
            "box_mask",
            (2, 3, 4, 5),
            {"num_boxes": 2, "extent": (None, 2, (1, 3), 5)},
        ),
        (
            "beit --grid 9x12 --set num_masked=None mask_ratio=0.3 max_block=20",
            "blockwise_mask",
            (9, 12),
            {"num_masked": None, "mask_ratio": 0.3, "max_block": 20},
        ),
        (
            "spatiotemporal_mask --grid 4x6x8 --set num_targets=1 --set temporal_extent=1,3 "
            "spatial_scale=(0.3,0.6)",
            "spatiotemporal_mask",
            (4, 6, 8),
            {"num_targets": 1, "temporal_extent": (1, 3), "spatial_scale": (0.3, 0.6)},
        ),
        (
            "multi_block_mask --grid 7x7 --set num_blocks=3 mask_ratio=0.8 num_blocks=2",
            "multi_block_mask",
            (7, 7),
            {"num_blocks": 2, "mask_ratio": 0.8},
        ),
        (
            "ijepa_masks --grid 9x8 --set num_targets=3 target_scale=0.1,0.12 "
            "target_aspect_ratio=0.3,0.5 context_scale=0.2,0.3 min_keep=12 sampling=reference",
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
            "ijepa --grid 9x8 --set num_targets=2 allow_overlap=True",
            "ijepa",
            (9, 8),
            {"num_targets": 2, "allow_overlap": True},
        ),
        (
            "vjepa_mask --grid 5x6x7 --set num_blocks=2 spatial_scale=0.2,0.3 "
            "temporal_scale=0.3,0.7 aspect_ratio=2,3 max_temporal_keep=0.8",
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
        ("random_mask --grid 3x3 --set mask_ratio=0.2", "random_mask", (3, 3), {"mask_ratio": 0.2}),
        (
            "random_tube_mask --grid 2x3x3 --set mask_ratio=0.5",
            "random_tube_mask",
            (2, 3, 3),
            {"mask_ratio": 0.5},
        ),
        ("object_mask --grid 9 --set num_masked=4", "object_mask", (9,), {"num_masked": 4}),
        (
            "cjepa --grid 9 --set num_masked=1,4",
            "cjepa",
            (9,),
            {"num_masked": (1, 4)},
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) and " " in value else "",
)
def test_grid_seed_batch_and_options_reach_the_function(run, line, name, grid, options):
    text = run(f"{line} --seed 3 --batch 8 --out masks.npz")
    context, targets = read_npz("masks.npz")
    assert_same_masks((context, targets), draw(name, grid, batch=8, seed=3, **options))
    assert_text_shows(text, context[0], targets[0])
    assert_text_counts(text, context, targets)


def test_the_largest_seed_and_batch_are_taken(run):
    text = run(f"object_mask --batch {2**17} --seed {2**32 - 1} --out masks.npz")
    assert text.startswith(f"object_mask 7, {2**17} masks\n")
    assert_same_masks(read_npz("masks.npz"), draw("object_mask", batch=2**17, seed=2**32 - 1))


def test_the_last_of_overlapping_targets_is_on_top_and_each_is_counted(run, always_draws):
    drawing = [
        from_rows("1111..", "1111..", target="1"),
        from_rows("..222.", "......", target="2"),
        from_rows("...3..", "...3..", target="3"),
    ]
    context = from_rows(".....#", ".....#")
    always_draws(jm.ContextTargetMasks(context, np.stack(drawing)))
    lines = run("block_mask --batch 2 --out masks.npz").splitlines()
    assert "the last on top" in lines[1]
    assert lines[2:4] == ["11232.", "1113 ."]
    assert ["each", "target", "2", "4.3", "8"] in [line.split() for line in lines]


def test_rows_that_are_wider_than_the_terminal_are_cut(run, always_draws, monkeypatch):
    rows = ["..#" * 10, "#.." * 10]
    always_draws(from_rows(*rows))
    monkeypatch.setenv("COLUMNS", "30")
    _, legend, *shown = run("block_mask --batch 1 --out masks.npz").splitlines()
    assert shown[:2] == rows
    assert "30" not in legend
    monkeypatch.setenv("COLUMNS", "29")
    _, legend, *shown = run("block_mask --batch 1 --out masks.npz").splitlines()
    assert shown[:2] == [row[:28] + ">" for row in rows]
    assert "28 of 30 columns" in legend


def test_frames_of_a_video_are_shown_as_the_terminal_has_room(run, always_draws, monkeypatch):
    frames = [("#" * i + "." * (7 - i), "." * 7) for i in range(7)]
    always_draws(np.stack([from_rows(*frame) for frame in frames]))
    for columns, wanted in [("200", range(7)), ("25", [0, 3, 6]), ("24", [0, 6]), ("7", [0])]:
        monkeypatch.setenv("COLUMNS", columns)
        _, legend, *shown = run("block_mask --batch 1 --out masks.npz").splitlines()
        assert f"frames {', '.join(map(str, wanted))})" in legend
        assert shown[0] == "  ".join(frames[i][0] for i in wanted)
    monkeypatch.setenv("COLUMNS", "6")
    _, legend, *shown = run("block_mask --batch 1 --out masks.npz").splitlines()
    assert shown[:2] == [".....>", ".....>"]
    assert "frames 0)" in legend
    assert "5 of 7 columns" in legend


def test_json_holds_the_index_lists_of_the_masks(run):
    run("block_mask --batch 5 --out masks.json")
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
    assert 0 < len(contents) < 400_000
    with Image.open(io.BytesIO(contents)) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 10


COLOR = (10, 200, 30)
ONE_COLOR = Image.new("RGB", (90, 60), COLOR)
SEE_THROUGH = {"transparency": bytes(range(10, 10 + len(ONE_COLOR.quantize(4).getcolors())))}
SHADE = np.full((60, 90), 0.4)
SHADE[0, 0] = 1
PHOTOGRAPHS = {
    "RGB": ("photo.jpg", ONE_COLOR, COLOR, {}),
    "palette": ("photo.png", ONE_COLOR.quantize(4), COLOR, {}),
    "palette with transparency": ("photo.png", ONE_COLOR.quantize(4), COLOR, SEE_THROUGH),
    "RGBA": ("photo.png", ONE_COLOR.convert("RGBA"), COLOR, {}),
    "CMYK": ("photo.jpg", ONE_COLOR.convert("CMYK"), COLOR, {}),
    "grey": ("photo.png", Image.new("L", (90, 60), 102), (102,) * 3, {}),
    "grey with alpha": ("photo.png", Image.new("LA", (90, 60), (102, 255)), (102,) * 3, {}),
    "16 bits": ("p.png", Image.fromarray((65535 * SHADE).astype(np.uint16)), (102,) * 3, {}),
    "dark 16 bits": ("p.png", Image.new("I;16", (90, 60), 51 * 257), (51,) * 3, {}),
    "32 bits": ("p.tif", Image.fromarray((2e9 * SHADE).astype(np.int32)), (102,) * 3, {}),
    "float": ("p.tif", Image.fromarray(SHADE.astype(np.float32)), (102,) * 3, {}),
    "float to 255": ("p.tif", Image.fromarray((255 * SHADE).astype(np.float32)), (102,) * 3, {}),
}


def pixels_like(path, color):
    """Where a picture has a colour, nearly: bool[height, width]."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.abs(pixels - color).max(axis=-1) < 12


@pytest.mark.parametrize(
    ("name", "photograph", "color", "saved"), PHOTOGRAPHS.values(), ids=PHOTOGRAPHS
)
def test_a_photograph_of_any_kind_lies_under_the_masks(
    run, always_draws, name, photograph, color, saved
):
    photograph.save(name, **saved)
    always_draws(from_rows("....", "...#"))
    run(f"block_mask --batch 3 --image {name} --out own.png")
    assert_is_a_picture("own.png")
    assert pixels_like("own.png", color).mean() > 0.05


def test_a_photograph_taken_with_the_camera_on_its_side_stands_upright(run, always_draws):
    photograph = np.zeros((60, 60, 3), np.uint8)
    photograph[:, :30, 0] = photograph[:, 30:, 2] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the left column is the top of the scene
    Image.fromarray(photograph).save("photo.png", exif=exif)
    always_draws(from_rows("....", "...#"))
    run("block_mask --batch 1 --image photo.png --out own.png")
    top, bottom = (pixels_like("own.png", color) for color in ([200, 0, 0], [0, 0, 200]))
    assert top.any()
    assert bottom.any()
    assert np.flatnonzero(top.any(axis=1)).max() < np.flatnonzero(bottom.any(axis=1)).min()


def test_without_a_strategy_a_photograph_lies_under_all_but_the_slots(
    run, always_draws, monkeypatch
):
    monkeypatch.setattr(command, "STRATEGIES", {})
    always_draws(from_rows("....", "...#"))
    always_draws(np.array([True, False, False]), "object_mask")
    ONE_COLOR.save("photo.png")
    run("--batch 2 --image photo.png --out own.png")
    rows = pixels_like("own.png", COLOR).any(axis=1)
    assert rows[: len(rows) // 2].any()
    assert not rows[len(rows) // 2 :].any()


@pytest.mark.parametrize("line", ["object_mask", "cjepa --grid 9"])
def test_a_photograph_under_slots_is_refused(fails, line):
    ONE_COLOR.save("photo.png")
    assert "--image" in fails(f"{line} --image photo.png")
    assert os.listdir() == ["photo.png"]


def test_a_picture_of_a_grid_of_four_sides_is_refused(fails):
    error = fails("random_mask --grid 2x3x4x5")
    assert "--out .png shows grids of one to three sides, not 2x3x4x5" in error
    assert os.listdir() == []


def test_a_photograph_that_is_too_large_or_cut_short_is_refused_with_the_reason(fails, monkeypatch):
    ONE_COLOR.save("photo.bmp")
    Path("short.bmp").write_bytes(Path("photo.bmp").read_bytes()[:5000])
    error = fails("block_mask --image short.bmp")
    assert "--image" in error
    assert "truncated" in error
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    error = fails("block_mask --image photo.bmp")
    assert "--image" in error
    assert "exceeds" in error


def test_running_again_replaces_the_file(run, quickly, tmp_path):
    for seed in (3, 4):
        run(f"block_mask --batch 2 --seed {seed} --out masks.json")
        assert json.loads(Path("masks.json").read_text())["seed"] == seed
    assert os.listdir(tmp_path) == ["masks.json"]


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(run, quickly):
    Path("masks.json").touch(mode=0o600)
    Path("link.json").symlink_to("masks.json")
    run("block_mask --batch 2 --out link.json")
    assert Path("link.json").is_symlink()
    assert stat.S_IMODE(os.stat("masks.json").st_mode) == 0o600
    assert len(json.loads(Path("masks.json").read_text())["masks"]) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_fed(run, quickly):
    os.mkfifo("masks.json")
    got = []
    reader = threading.Thread(target=lambda: got.append(Path("masks.json").read_text()))
    reader.daemon = True
    reader.start()
    run("block_mask --batch 2 --out masks.json")
    reader.join(timeout=60)
    assert stat.S_ISFIFO(os.stat("masks.json").st_mode)
    assert len(json.loads(got[0])["masks"]) == 2


def test_a_file_is_made_whole_before_what_was_there_is_overwritten(fails, quickly, monkeypatch):
    def out_of_memory(*args, **arrays):
        raise MemoryError("no room for the file")

    Path("masks.npz").write_bytes(b"what was there")
    monkeypatch.setattr(np, "savez_compressed", out_of_memory)
    assert "no room for the file" in fails("block_mask --batch 2 --out masks.npz")
    assert Path("masks.npz").read_bytes() == b"what was there"


needs_full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@needs_full_device
def test_a_full_disk_is_named_as_the_reason(fails, quickly):
    Path("masks.npz").symlink_to("/dev/full")
    error = fails("block_mask --batch 2 --out masks.npz")
    assert "--out" in error
    assert "No space left on device" in error


@pytest.mark.parametrize("option", ["--out", "--image"])
@pytest.mark.parametrize("path", ["a" * 300 + ".png", "b" * 300 + "/a.png"])
def test_a_name_that_is_too_long_is_named_as_the_reason(fails, quickly, option, path):
    error = fails(f"block_mask --batch 2 {option} {path}")
    assert option in error
    assert "File name too long" in error


def test_an_interruption_ends_quietly(monkeypatch, capsys):
    def interrupted(key, grid):
        raise KeyboardInterrupt

    monkeypatch.setitem(command.STRATEGIES, "block_mask", (interrupted, (14, 14)))
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stop:
        command.main(["block_mask"])
    assert stop.type is SystemExit
    assert stop.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_names_that_the_terminal_cannot_show_are_written_in_ascii(monkeypatch, quickly):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    command.main(["block_mask", "--batch", "2", "--out", "mäsk.npz"])
    assert terminal.buffer.getvalue().endswith(b"\nWrote m\\xe4sk.npz\n")
    assert os.listdir() == ["mäsk.npz"]


@pytest.mark.parametrize(
    ("line", "offenders"),
    [
        ("nope", ["STRATEGY", "nope"]),
        ("block", ["STRATEGY", "block"]),
        ("block_mask extra", ["extra"]),
        ("block_mask --nope 3", ["--nope"]),
        ("block_mask --set", ["--set"]),
        ("block_mask --set num_targets", ["--set", "num_targets"]),
        ("block_mask --set nope=3", ["nope", "num_targets", "target_scale", "target_aspect_ratio"]),
        ("block_mask --set key=3", ["key", "num_targets"]),
        ("object_mask --set num-masked=3", ["num-masked", "num_masked"]),
        ("--grid 14x14", ["--grid"]),
        ("all --set num_targets=3", ["--set"]),
        ("block_mask --batch", ["--batch"]),
        ("block_mask --batch 0", ["--batch", "0"]),
        ("block_mask --batch -3", ["--batch", "-3"]),
        ("block_mask --batch many", ["--batch", "many"]),
        ("block_mask --batch 2.5", ["--batch", "2.5"]),
        (f"block_mask --batch {2**17 + 1}", ["--batch", f"{2**17 + 1}"]),
        ("--seed -1", ["--seed", "-1"]),
        ("--seed 4294967296", ["--seed", "4294967296"]),
        ("--seed 1.5", ["--seed", "1.5"]),
        ("block_mask --grid 14", ["grid", "14"]),
        ("block_mask --grid 14,14", ["--grid", "14,14"]),
        ("block_mask --grid -1x4", ["--grid"]),
        ("block_mask --grid 0x4", ["grid", "0"]),
        ("block_mask --grid 1x1", ["grid", "1"]),
        ("block_mask --grid 2x2x2x2", ["grid", "2"]),
        ("block_mask --grid 99999999x99999999", ["grid", "99999999"]),
        ("block_mask --grid ", ["--grid"]),
        ("ijepa --grid 8x14x14", ["grid", "8, 14, 14"]),
        ("random_tube_mask --grid 14x14", ["grid", "14, 14"]),
        ("object_mask --grid 3x4", ["3", "4"]),
        ("object_mask --grid 1", ["1"]),
        ("block_mask --set num_targets=0", ["num_targets", "0"]),
        ("block_mask --set num_targets=2.5", ["num_targets", "2.5"]),
        ("block_mask --set target_scale=0.5", ["target_scale", "0.5"]),
        ("block_mask --set target_scale=0.5,0.1", ["target_scale", "0.5"]),
        ("block_mask --set target_scale=nan,nan", ["target_scale", "nan"]),
        ("block_mask --set target_scale=0.5,1.5", ["target_scale", "1.5"]),
        ("spatiotemporal_mask --set temporal_extent=4,2", ["temporal_extent", "4"]),
        ("spatiotemporal_mask --set temporal_extent=2.0,4", ["temporal_extent", "2.0"]),
        ("random_mask --set mask_ratio=1.5", ["mask_ratio", "1.5"]),
        ("ijepa --set min_keep=1000", ["min_keep", "1000"]),
        ("ijepa --set sampling=other", ["sampling", "other"]),
        ("ijepa --set allow_overlap=yes", ["allow_overlap", "yes"]),
        ("object_mask --set num_masked=7", ["num_masked", "7"]),
        ("block_mask --out masks.txt", ["--out", "masks.txt"]),
        ("block_mask --out masks", ["--out", "masks"]),
        ("block_mask --out ", ["--out"]),
        ("block_mask --out nowhere/masks.png", ["--out", "nowhere"]),
        ("--out masks.npz", ["--out", ".npz"]),
        ("all --out masks.json", ["--out", ".json"]),
        ("block_mask --image nowhere.jpg", ["--image", "nowhere.jpg"]),
        ("block_mask --image .", ["--image"]),
        ("block_mask --image ", ["--image"]),
        (f"block_mask --grid 4x4 --batch 1 --image {__file__}", ["--image", __file__]),
        (f"block_mask --out masks.npz --image {__file__}", ["--image"]),
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
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 1 byte.")

    monkeypatch.setitem(command.STRATEGIES, "block_mask", (block_mask, (14, 14)))
    assert "memory" in fails("block_mask")


@pytest.fixture
def without_matplotlib(monkeypatch):
    """The command as it is imported where there is no matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec = importlib.util.spec_from_file_location("without_matplotlib", command.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    monkeypatch.setattr(command, "main", fresh.main)


def test_without_matplotlib_the_text_comes_with_a_line_on_how_to_get_pictures(
    run, tmp_path, without_matplotlib
):
    text = run("block_mask --batch 5")
    assert_text_counts(text, *draw("block_mask"))
    assert [line for line in text.splitlines() if "pip install" in line] == text.splitlines()[-1:]
    assert "Wrote" not in text
    assert os.listdir(tmp_path) == []


def test_without_matplotlib_a_photograph_is_refused(fails, without_matplotlib):
    ONE_COLOR.save("photo.png")
    error = fails("block_mask --image photo.png")
    assert "--image" in error
    assert "pip install matplotlib" in error


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


def rows_of_help(capsys, monkeypatch):
    """The tables of the help: the grid and the options of each strategy and preset."""
    monkeypatch.setenv("COLUMNS", "500")
    lines = map(str.split, help_of("--help", capsys).splitlines())
    return {words[0]: words[1:] for words in lines if words and words[0] in FUNCTIONS}


def test_help_shows_grids_and_options_as_the_command_takes_them(run, capsys, monkeypatch):
    rows = rows_of_help(capsys, monkeypatch)
    assert list(rows) == [*STRATEGIES, *PRESETS]
    for name, (shown, *options) in rows.items():
        function, grid, bound = FUNCTIONS[name]
        assert shown == "x".join(map(str, grid))
        parameters = list(inspect.signature(function).parameters)
        assert sorted(option.split("=")[0] for option in options) == sorted(parameters[2:])
        for option, value in bound.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert f"{option}={text}".replace(" ", "") in options
    assert " ".join(rows["ijepa_masks"]) == (
        "14x14 num_targets=4 target_scale=0.15,0.2 target_aspect_ratio=0.75,1.5 "
        "context_scale=0.85,1.0 min_keep=10 allow_overlap=False sampling=paper"
    )
    grid, *options = rows["ijepa_masks"]
    line = f"ijepa_masks --grid {grid} --set {' '.join(options)} --batch 5 --out masks.npz"
    monkeypatch.setenv("COLUMNS", "80")
    run(line)
    assert_same_masks(read_npz("masks.npz"), draw("ijepa_masks"))


@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_wrapped_to_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of("--help", capsys).splitlines()
    assert columns - 30 < max(map(len, lines)) <= columns


def run_as_a_process(*arguments, flags=(), **options):
    return subprocess.run(
        [sys.executable, *flags, "-m", "jepa_masks_jax", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_in_a_closed_pipe_there_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    ended = run_as_a_process("object_mask", "--batch", "2", "--out", "m.npz", stdout=writer)
    os.close(writer)
    assert ended.stderr == ""


@needs_full_device
def test_text_that_cannot_be_printed_is_told_beside_the_file_that_was_written():
    with open("/dev/full", "w") as full:
        ended = run_as_a_process("object_mask", "--batch", "2", "--out", "m.npz", stdout=full)
    assert ended.returncode not in (0, 120)
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr
    assert "Wrote m.npz" in ended.stderr
    assert_same_masks(read_npz("m.npz"), draw("object_mask", batch=2))


@needs_full_device
def test_help_that_cannot_be_printed_ends_in_one_line():
    with open("/dev/full", "w") as full:
        ended = run_as_a_process("--help", stdout=full)
    assert ended.returncode not in (0, 120)
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


def test_it_runs_without_docstrings_and_with_options_before_the_strategy():
    line = "--set num_masked=3 --batch 5 --out m.npz object_mask"
    ended = run_as_a_process(*line.split(), flags=["-OO"], stdout=subprocess.DEVNULL)
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert_same_masks(read_npz("m.npz"), draw("object_mask", num_masked=3))


def test_as_a_process_it_ends_with_its_status():
    ended = run_as_a_process("block_mask", "--set", "num_targets=0", stdout=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "num_targets" in ended.stderr
