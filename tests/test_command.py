"""The command prints, plots and saves the masks of its options, and fails in one line."""

import importlib.util
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import jepa_masks_jax as jm
from jepa_masks_jax import __main__ as command
from jepa_masks_jax import plotting

IMAGE, VIDEO, SEQUENCE, SLOTS = (14, 14), (8, 14, 14), (70,), (7,)
STRATEGIES = {
    "ijepa_masks": IMAGE,
    "vjepa_mask": VIDEO,
    "random_mask": IMAGE,
    "random_tube_mask": VIDEO,
    "top_mask": IMAGE,
    "blockwise_mask": IMAGE,
    "inverse_block_mask": IMAGE,
    "span_mask": SEQUENCE,
    "random_span_mask": SEQUENCE,
    "object_mask": SLOTS,
    "box_mask": IMAGE,
    "block_mask": IMAGE,
    "spatiotemporal_mask": VIDEO,
    "multi_block_mask": IMAGE,
}
PRESETS = {
    **dict.fromkeys(["ijepa", "mae", "beit"], IMAGE),
    **dict.fromkeys(["vjepa_short_range", "vjepa_long_range", "mae_st", "videomae_tube"], VIDEO),
    **dict.fromkeys(["vjepa21_image", "pixio", "dinov3", "capi"], (16, 16)),
    **dict.fromkeys(["wav2vec2", "hubert", "t5"], SEQUENCE),
    **{"audiomae": (64, 8), "simmim": (48, 48), "cjepa": SLOTS},
}
PICTURES = Path(__file__).parents[1] / ".github" / "images"


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
        assert error.startswith("python -m jepa_masks_jax: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        return error

    return fails


@pytest.fixture
def returns(monkeypatch):
    """Makes block_mask return the given masks whatever the key, or call another function."""

    def returns(masks):
        function, grid = masks, (4, 5)
        if not callable(masks):
            grid = np.shape(masks.context if isinstance(masks, tuple) else masks)
            constant = jax.tree.map(jnp.asarray, masks)
            function = lambda key, grid: constant  # noqa: E731
        monkeypatch.setitem(
            command.STRATEGIES, "block_mask", command.Strategy(function, "a method", grid)
        )

    return returns


@pytest.fixture
def shown(monkeypatch):
    """Records what is plotted: the context, the targets, the options and the axes of each mask."""
    calls = []
    show_mask = plotting.show_mask

    def record(mask, *, ax, **options):
        calls.append((*map(np.asarray, mask), options, ax))
        return show_mask(mask, ax=ax, **options)

    monkeypatch.setattr(plotting, "show_mask", record)
    show_legend = plotting.show_legend

    def show_legend_unrecorded(**options):
        count = len(calls)
        show_legend(**options)
        del calls[count:]

    monkeypatch.setattr(plotting, "show_legend", show_legend_unrecorded)
    monkeypatch.setattr(command, "plot_chain", lambda *options: Figure((1, 1)))
    return calls


def from_rows(*rows, target="#"):
    """Reads a mask from the characters of its rows."""
    return np.array([list(row) for row in rows]) == target


def random_bits(key, grid):
    return jax.random.bernoulli(key, 0.5, grid)


def read_npz(path):
    """Returns bool[batch, *grid] and bool[batch, num_targets, *grid]."""
    with np.load(path) as file:
        arrays = dict(file)
    context = arrays.pop("context")
    ((name, target),) = arrays.items()
    return context, target if name == "targets" else target[:, None]


def sample(function, shape, batch=3, seed=0, **options):
    """The masks of a direct call, as the command saves them."""
    keys = jax.random.split(jax.random.key(seed), batch)
    masks = jax.jit(jax.vmap(lambda key: function(key, shape, **options)))(keys)
    if isinstance(masks, jm.ContextTargetMasks):
        return np.asarray(masks.context), np.asarray(masks.targets)
    return ~np.asarray(masks), np.asarray(masks)[:, None]


def assert_same_masks(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def assert_text_shows(text, context, targets):
    """Compares the printed mask with bool[*grid] and bool[num_targets, *grid]."""
    video = (1, 1, *context.shape)[-3:]
    _, height, width = video
    legend, *rows = text.splitlines()[1 : height + 2]
    listed = re.search(r"frames: ([0-9, ]+)", legend)
    frames = [int(number) for number in listed[1].split(",")] if listed else [0]
    length = len(frames) * (width + 2) - 2
    assert max(map(len, rows)) <= length
    cells = np.array([list(row.ljust(length) + "  ") for row in rows])
    cells = cells.reshape(height, len(frames), width + 2)[..., :width].swapaxes(0, 1)
    context = context.reshape(video)[frames]
    targets = targets.reshape(-1, *video)[:, frames]
    target = targets.any(axis=0)
    np.testing.assert_array_equal(cells == ".", context & ~target)
    np.testing.assert_array_equal(cells == " ", ~context & ~target)
    if "#" in legend:
        np.testing.assert_array_equal(cells == "#", target)
    else:
        numbers = cells[target].astype(int)
        assert targets[:, target][numbers - 1, np.arange(len(numbers))].all()


def assert_text_counts(text, context, targets):
    """Compares the printed counts with bool[batch, *grid] and bool[batch, num_targets, *grid]."""
    target = targets.any(axis=1)
    sides = {"context": context, "target": target}
    if "each target" in text:
        sides["each target"] = targets.reshape(-1, *target.shape[1:])
    table = re.findall(r"^ *(context|target|each target) +(\d+) +([\d.]+) +(\d+)$", text, re.M)
    assert [side for side, *_ in table] == list(sides)
    for side, *numbers in table:
        counts = [int(np.count_nonzero(mask)) for mask in sides[side]]
        expected = [min(counts), sum(counts) / len(counts), max(counts)]
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=0.051)
    (share,) = re.findall(r"^targets cover ([\d.]+) % of the tokens$", text, re.M)
    assert float(share) == pytest.approx(100 * np.mean(target), abs=0.051)


def assert_looks_like(path, other):
    """Compares the means of squares of 32 pixels: letters differ with matplotlib, masks do not."""
    with Image.open(path) as one, Image.open(other) as two:
        assert one.size == two.size
        means = [np.asarray(x.convert("RGB").reduce(32), float) for x in (one, two)]
    assert np.abs(means[0] - means[1]).max() < 40


def test_without_a_strategy_it_writes_the_chain_beside_the_tiles(run, returns, monkeypatch):
    returns(from_rows("....", "...#"))
    monkeypatch.setattr(command, "STRATEGIES", {"block_mask": command.STRATEGIES["block_mask"]})
    monkeypatch.setattr(command, "PRESETS", {})
    lines = run("--batch 2").splitlines()
    assert lines[2].split() == ["block_mask", "2x4", "7", "7.0", "7", "12.5", "%"]
    assert lines[3:] == ["", "Wrote chain.png and masks.png"]
    for name in ("chain.png", "masks.png"):
        with Image.open(name) as picture:
            assert picture.size[0] >= 1500
    assert Path("chain.png").stat().st_size < 400_000
    assert_looks_like("chain.png", PICTURES / "chain.png")
    Path("folder").mkdir()
    monkeypatch.setattr(command, "plot_chain", lambda *options: Figure((1, 1)))
    run("--batch 1 --seed 1 --out folder/tiles.png")
    assert sorted(os.listdir("folder")) == ["chain.png", "tiles.png"]


@pytest.mark.slow
def test_the_table_and_the_tiles_show_every_strategy(run, shown, monkeypatch):
    figures = []
    save = command.save
    monkeypatch.setattr(
        command, "save", lambda figure, file: (figures.append(figure), save(figure, file))
    )
    lines = run("--batch 2").splitlines()
    assert len(lines) == 18
    rows = [line.split() for line in lines[2:16]]
    assert [row[0] for row in rows] == list(STRATEGIES)
    assert [row[1] for row in rows] == ["x".join(map(str, grid)) for grid in STRATEGIES.values()]
    table = dict(zip(STRATEGIES, rows, strict=True))
    assert table["random_mask"][2:] == ["49", "49.0", "49", "75.0", "%"]
    assert table["object_mask"][2:] == ["5", "5.0", "5", "28.6", "%"]
    context, targets = sample(jm.ijepa_masks, IMAGE, batch=2)
    few, many = sorted(context.sum(axis=(1, 2)).tolist())
    share = 100 * targets.any(axis=1).mean()
    expected = [str(few), f"{(few + many) / 2:.1f}", str(many), f"{share:.1f}", "%"]
    assert table["ijepa_masks"][2:] == expected

    np.testing.assert_array_equal(shown[0][0], context[0])
    np.testing.assert_array_equal(shown[0][1], targets[0])
    assert [call[0].ndim for call in shown] == [2] * 11 + [1] * 3 + [2] * 6
    assert [call[2]["image"] is None for call in shown] == [False] * 11 + [True] * 3 + [False] * 6

    _, figure = figures
    tiles = figure.axes[:14]
    assert [tile.texts[0].get_text() for tile in tiles] == list(STRATEGIES)
    assert [tile.get_title(loc="left") for tile in tiles][:3] == ["I-JEPA", "V-JEPA", "MAE"]
    boxes = [tile.texts[0].get_window_extent() for tile in tiles]
    width, _ = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    for left, right in itertools.pairwise(boxes):
        assert left.y0 > right.y1 or left.x1 < right.x0
    assert_looks_like("masks.png", PICTURES / "masks.png")


def test_the_tile_of_a_video_shows_its_first_middle_and_last_frame(shown):
    targets = np.random.default_rng(0).random((2, 1, 5, 4, 4)) < 0.5
    batch = command.Batch("vjepa_mask", (5, 4, 4), ~targets[:, 0], targets, False, None)
    command.plot_all([batch], plotting.photograph())
    assert len(shown) == 3
    for call, frame in zip(shown, [4, 2, 0], strict=True):  # the first in front
        np.testing.assert_array_equal(call[0], ~targets[0, 0, frame])
        np.testing.assert_array_equal(call[1], targets[0, :, frame])


@pytest.mark.parametrize("name", ["ijepa", "pixio", "wav2vec2", "cjepa"])
def test_text_and_file_of_a_preset_show_its_masks(run, name):
    text = run(f"{name} --batch 3 --out masks.npz")
    context, targets = read_npz("masks.npz")
    grid = PRESETS[name]
    shape = grid[0] if name == "cjepa" else grid
    assert_same_masks((context, targets), sample(getattr(jm.presets, name), shape))
    assert text.startswith(f"{name} {'x'.join(map(str, grid))}, 3 masks\n")
    assert text.endswith("\nWrote masks.npz\n")
    assert_text_shows(text, context[0], targets[0])
    assert_text_counts(text, context, targets)


@pytest.mark.parametrize(
    ("line", "function", "grid", "options"),
    [
        ("ijepa_masks --grid 40", jm.ijepa_masks, (40,), {}),
        (
            "box_mask --grid 2x3x4x5 --set num_boxes=2 --set extent=(None,2,(1,3),5)",
            jm.box_mask,
            (2, 3, 4, 5),
            {"num_boxes": 2, "extent": (None, 2, (1, 3), 5)},
        ),
        (
            "ijepa --grid 9x8 --set num_targets=2 target_scale=0.1,0.12 allow_overlap=True",
            jm.ijepa_masks,
            (9, 8),
            {"num_targets": 2, "target_scale": (0.1, 0.12), "allow_overlap": True},
        ),
        (
            "random_mask --grid 3x3 --set mask_ratio=0.2",
            jm.random_mask,
            (3, 3),
            {"mask_ratio": 0.2},
        ),
        ("cjepa --grid 9 --set num_masked=1,4", jm.object_mask, 9, {"num_masked": (1, 4)}),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_grid_seed_batch_and_options_reach_the_function(run, line, function, grid, options):
    run(f"{line} --seed 3 --batch 4 --out masks.npz")
    expected = sample(function, grid, batch=4, seed=3, **options)
    assert_same_masks(read_npz("masks.npz"), expected)


def test_the_last_of_overlapping_targets_is_on_top_and_each_is_counted(run, returns):
    drawing = [
        from_rows("1111..", "1111..", target="1"),
        from_rows("..222.", "......", target="2"),
        from_rows("...3..", "...3..", target="3"),
    ]
    context = from_rows(".....#", ".....#")
    returns(jm.ContextTargetMasks(context, np.stack(drawing)))
    lines = run("block_mask --batch 2 --out masks.npz").splitlines()
    assert lines[1] == ".: context   1-9: target (later ones on top)   blank: unused"
    assert lines[2:4] == ["11232.", "1113 ."]
    assert ["each", "target", "2", "4.3", "8"] in [line.split() for line in lines]
    assert lines[-3] == "targets cover 75.0 % of the tokens"


def test_frames_of_a_video_are_shown_as_the_terminal_has_room(run, returns, monkeypatch):
    frames = [("#" * i + "." * (7 - i), "." * 7) for i in range(7)]
    returns(np.stack([from_rows(*frame) for frame in frames]))
    for columns, wanted in [("200", range(7)), ("25", [0, 3, 6]), ("24", [0, 6]), ("6", [0])]:
        monkeypatch.setenv("COLUMNS", columns)
        _, legend, *rows = run("block_mask --batch 1 --out masks.npz").splitlines()
        cut = "   columns: 0-5 of 7" if columns == "6" else ""
        assert legend == f".: context   #: target   frames: {', '.join(map(str, wanted))}{cut}"
        assert rows[0] == "  ".join(frames[i][0] for i in wanted)[: int(columns)]


def test_a_line_of_the_terminal_holds_the_columns_that_fit(run, returns, monkeypatch):
    row = "#" * 75 + "." * 53
    returns(from_rows(row, row[::-1]))
    _, legend, *rows = run("block_mask --batch 1 --out masks.npz").splitlines()
    assert legend.endswith("   columns: 0-79 of 128")
    assert rows[:3] == [row[:80], row[::-1][:80], ""]
    monkeypatch.setenv("COLUMNS", "128")
    _, legend, *rows = run("block_mask --batch 1 --out masks.npz").splitlines()
    assert "columns" not in legend
    assert rows[:3] == [row, row[::-1], ""]


def last_row(key, grid, *, within):
    """The last row of the real part."""
    rows, columns = np.indices(grid)
    return jnp.asarray((rows == within[0] - 1) & (columns < within[1]))


def test_tokens_outside_the_real_part_are_blank(run, shown, returns):
    returns(last_row)
    text = run("block_mask --batch 2 --set within=3,4")
    assert text.splitlines()[2:6] == [".... ", ".... ", "#### ", "     "]
    assert "targets cover 33.3 % of the tokens" in text
    assert re.search(r"^ +context +8 +8.0 +8$", text, re.M)
    assert [options["within"] for *_, options, _ in shown] == [(3, 4)] * 2
    run("block_mask --batch 2 --set within=3,4 --out masks.npz")
    context, targets = read_npz("masks.npz")
    assert context.sum(axis=(1, 2)).tolist() == [8, 8]
    assert targets.sum(axis=(1, 2, 3)).tolist() == [4, 4]


def test_the_share_is_that_of_the_part_of_the_grid_that_the_sides_cover(run):
    text = run("random_mask --grid 4x5 --batch 2 --set within=9,3 --out masks.npz")
    assert "targets cover 75.0 % of the tokens" in text
    assert "targets cover 75.0 % of the tokens" in run(
        "random_mask --grid 2x2x2x2 --batch 2 --set within=1,2,2,1"
    )


@pytest.mark.parametrize(("grid", "plotted"), [("3x4", 8), ("2x3x4", 2), ("9", 2), ("2x3x2x2", 2)])
def test_a_picture_shows_some_samples_in_order(run, returns, shown, grid, plotted):
    returns(random_bits)
    run(f"block_mask --grid {grid} --batch 20")
    assert len(shown) == plotted
    shape = tuple(map(int, grid.split("x")))
    contexts, targets = sample(random_bits, shape, batch=20)
    drawn = (6, 2, 2) if len(shape) == 4 else shape
    for i, (context, target, *_) in enumerate(shown):
        np.testing.assert_array_equal(context, contexts[i].reshape(drawn))
        np.testing.assert_array_equal(target, targets[i].reshape(-1, *drawn))
    corners = [ax.get_position() for *_, ax in shown]
    places = [(-round(corner.y0, 6), corner.x0) for corner in corners]
    assert places == sorted(places)
    figure = shown[0][-1].figure
    assert figure.axes[0].get_title(loc="left") == f"block_mask {grid}"
    with Image.open("masks.png") as picture:
        assert 900 <= picture.size[0] <= 1500
        assert picture.size[1] <= 1500


def test_fewer_masks_than_places_leave_the_others_empty(run, returns, shown):
    returns(random_bits)
    assert run("block_mask --grid 3x4 --batch 3").startswith("block_mask 3x4, 3 masks\n")
    assert len(shown) == 3
    assert run("block_mask --grid 3x4x4 --batch 1").startswith("block_mask 3x4x4, 1 mask\n")


def test_json_holds_the_index_lists_of_the_masks(run):
    run("block_mask --batch 3 --out masks.json")
    file = json.loads(Path("masks.json").read_text())
    masks = file.pop("masks")
    assert file == {"strategy": "block_mask", "grid": [14, 14], "seed": 0}
    _, targets = sample(jm.block_mask, IMAGE)
    assert [jm.MaskSpec(**mask) for mask in masks] == jm.to_mask_specs(targets[:, 0])


@pytest.mark.parametrize("num_targets", [1, 3])
def test_files_hold_each_target_of_ijepa_and_keep_the_level_of_one(run, returns, num_targets):
    def separate(key, grid):
        bits = random_bits(key, (1 + num_targets, *grid))
        return jm.ContextTargetMasks(bits[0], bits[1:])

    returns(separate)
    run("block_mask --grid 4x5 --batch 3 --out masks.json")
    run("block_mask --grid 4x5 --batch 3 --out masks.npz")
    contexts, targets = sample(separate, (4, 5))
    assert targets.shape == (3, num_targets, 4, 5)
    with np.load("masks.npz") as file:
        assert sorted(file) == ["context", "targets"]
        assert_same_masks((file["context"], file["targets"]), (contexts, targets))
    masks = json.loads(Path("masks.json").read_text())["masks"]
    for mask, context, separate in zip(masks, contexts, targets, strict=True):
        assert mask["context_indices"] == np.flatnonzero(context).tolist()
        assert mask["target_indices"] == [np.flatnonzero(target).tolist() for target in separate]


COLOR = (10, 200, 30)
ONE_COLOR = Image.new("RGB", (90, 60), COLOR)
SEE_THROUGH = {"transparency": bytes(range(10, 10 + len(ONE_COLOR.quantize(4).getcolors())))}
PHOTOGRAPHS = {
    "palette with transparency": ("photo.png", ONE_COLOR.quantize(4), COLOR, SEE_THROUGH),
    "CMYK": ("photo.jpg", ONE_COLOR.convert("CMYK"), COLOR, {}),
    "grey": ("photo.png", Image.new("L", (90, 60), 102), (102,) * 3, {}),
    "float": ("p.tif", Image.fromarray(np.full((60, 90), 0.4, np.float32)), (102,) * 3, {}),
    "55x55": ("photo.png", ONE_COLOR.resize((55, 55)), COLOR, {}),
}


def pixels_like(path, color):
    """Where a picture has a color, nearly: bool[height, width]."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.abs(pixels - color).max(axis=-1) < 12


@pytest.mark.parametrize(
    ("name", "photograph", "color", "saved"), PHOTOGRAPHS.values(), ids=PHOTOGRAPHS
)
def test_a_photograph_of_any_kind_lies_under_the_masks(
    run, returns, name, photograph, color, saved
):
    photograph.save(name, **saved)
    returns(from_rows("....", "...#"))
    run(f"block_mask --batch 1 --image {name} --out own.png")
    assert pixels_like("own.png", color).mean() > 0.02


def test_a_photograph_taken_with_the_camera_on_its_side_stands_upright(run, returns):
    photograph = np.zeros((60, 60, 3), np.uint8)
    photograph[:, :30, 0] = photograph[:, 30:, 2] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the left column is the top of the scene
    Image.fromarray(photograph).save("photo.png", exif=exif)
    returns(from_rows("....", "...#"))
    run("block_mask --batch 1 --image photo.png --out own.png")
    top, bottom = (
        pixels_like("own.png", color)[:-90]  # above the legend
        for color in ([200, 0, 0], [0, 0, 200])
    )
    assert top.any()
    assert bottom.any()
    assert np.flatnonzero(top.any(axis=1)).max() < np.flatnonzero(bottom.any(axis=1)).min()


def test_a_photograph_that_cannot_lie_under_a_mask_is_refused(fails):
    ONE_COLOR.save("photo.bmp")
    assert "--image needs" in fails("object_mask --image photo.bmp")
    assert "--image needs" in fails("block_mask --image photo.bmp --out masks.npz")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save("deep.png")
    assert "uint8 or float in [0, 1], got uint16" in fails("block_mask --image deep.png --batch 1")


def png(width, height, data):
    """A PNG of one-bit pixels with this compressed data."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0),
        b"IDAT": data,
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(format):
    buffer = io.BytesIO()
    ONE_COLOR.save(buffer, format)
    return buffer.getvalue()


DDS_HEADER = struct.pack(
    "<4s7I44x2I4s5I4x4I4x", b"DDS ", 124, 0x1007, 9, 9, 0, 0, 0, 32, 4, b"????", *[0] * 9
)
FILES = {
    "no image": b"text",
    "empty": b"",
    "bomb": png(30_000, 30_000, b"12345678"),
    "large": png(20_000, 20_000, b""),
    "PNG without pixels": png(9, 9, b"")[:50],
    "broken PNG": saved("png")[:60] + b"\0" * 40 + saved("png")[100:],
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0" * 99,
    "DDS": DDS_HEADER,
    **{f"short {format}": saved(format)[:-80] for format in ("bmp", "jpeg", "gif", "tiff", "webp")},
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_broken_image_is_one_line_with_its_cause(fails, data):
    Path("photo").write_bytes(data)
    error = fails("block_mask --batch 1 --image photo")
    assert re.search(r"argument --image: cannot read photo: \S+", error)


@pytest.mark.parametrize("error", [struct.error("short"), MemoryError(), KeyError(7), EOFError()])
def test_whatever_a_reader_of_images_raises_is_one_line(fails, monkeypatch, error):
    def raises(path):
        raise error

    monkeypatch.setattr(Image, "open", raises)
    said = str(error) or type(error).__name__
    assert f"argument --image: cannot read photo: {said}" in fails("block_mask --image photo")


def test_options_stand_before_or_after_the_strategy(run, returns):
    returns(lambda key, grid, *, first, last=0: jnp.arange(20).reshape(grid) % first == last)
    texts = {
        run(line)
        for line in (
            "block_mask --batch 1 --out m.npz --set first=3 last=1",
            "--batch 1 --out m.npz --set first=3 last=1 block_mask",
            "--set first=3 last=1 block_mask --batch 1 --out m.npz",
            "--set first=3 --batch 1 --set last=1 block_mask --out m.npz",
            "--batch 1 --set first=3 last=1 --out m.npz block_mask",
        )
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("mea", "mae"),
        ("vjepa", "vjepa_mask or vjepa21_image or vjepa_long_range or vjepa_short_range"),
        ("VideoMAE", "videomae_tube"),
        ("block-mask", "block_mask"),
    ],
)
def test_an_unknown_strategy_gets_those_of_a_similar_name(fails, name, close):
    error = fails(f"{name} --batch 2")
    assert f"got {name}, did you mean {close}" in error
    assert len(error) < 250


@pytest.mark.parametrize(
    ("line", "offenders"),
    [
        ("nope", ["STRATEGY", "nope"]),
        ("block_mask extra", ["extra"]),
        ("block_mask --set extra", ["--set", "OPTION=VALUE", "extra"]),
        ("block_mask --set x=", ["block_mask", "x"]),
        (f"block_mask --set num_targets={'-' * 3000}1", ["num_targets"]),
        (f"block_mask --set num_targets={'(' * 3000}", ["num_targets"]),
        ("block_mask --set num_targets={[]:1}", ["num_targets", "{[]:1}"]),
        ("block_mask --nope 3", ["--nope"]),
        ("block_mask --set", ["--set"]),
        ("block_mask --set nope=3", ["block_mask", "nope"]),
        ("block_mask --set key=3", ["key"]),
        ("block_mask --set num_targets=2 --set num_targets=2", ["--set", "once", "num_targets"]),
        ("--grid 14x14", ["--grid"]),
        ("all --set num_targets=3", ["--set"]),
        ("--out masks.npz", ["--out", ".npz"]),
        ("block_mask --batch 0", ["--batch", "0"]),
        ("block_mask --batch many", ["--batch", "many"]),
        ("block_mask --grid 1000x1000 --batch 1000", ["--batch", "1000x1000", "134217728"]),
        ("block_mask --seed 1.5", ["--seed", "1.5"]),
        (f"block_mask --seed {2**70}", ["--seed", str(2**70)]),
        ("--out chain.png", ["--out", "chain.png"]),
        ("block_mask --grid 14,14", ["--grid", "14x14", "14,14"]),
        ("block_mask --grid 14", ["grid", "14"]),
        ("block_mask --grid 0x4", ["grid", "0"]),
        ("object_mask --grid 3x4", ["3", "4"]),
        ("block_mask --set num_targets=2.5", ["num_targets", "2.5"]),
        ("block_mask --out masks.txt", ["--out", "masks.txt"]),
        ("block_mask --batch 1 --out nowhere/masks.npz", ["--out", "nowhere"]),
        ("object_mask --batch 1 --out nowhere/masks.png", ["--out", "nowhere"]),
        ("block_mask --image nowhere.jpg", ["--image", "nowhere.jpg"]),
        ("block_mask --image .", ["--image"]),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_a_bad_argument_is_named_in_one_line(fails, tmp_path, line, offenders):
    error = fails(line)
    for offender in offenders:
        assert offender in error
    assert os.listdir(tmp_path) == []


def test_a_batch_of_as_many_tokens_as_are_allowed(run, fails, monkeypatch):
    assert command.MAX_BATCH_TOKENS == 2**27
    monkeypatch.setattr(command, "MAX_BATCH_TOKENS", 3 * 16)
    run("mae --grid 4x4 --out masks.json --batch 3")
    assert len(json.loads(Path("masks.json").read_text())["masks"]) == 3
    error = fails("mae --grid 4x4 --out masks.json --batch 4")
    assert "must be at most 48, got 4 times 4x4" in error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nof 1 byte."),
            "Out of memory",
        ),
        (MemoryError(), "MemoryError"),
    ],
)
def test_masks_that_do_not_fit_in_memory_end_with_one_line(fails, returns, error, said):
    def block_mask(key, grid):
        raise error

    returns(block_mask)
    assert said in fails("block_mask")


def test_without_matplotlib_there_is_text_and_no_picture(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    spec = importlib.util.spec_from_file_location("without_matplotlib", command.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    fresh.main(["object_mask", "--batch", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "object_mask 7, 2 masks"
    assert lines[-1] == "No picture written: pip install 'jepa_masks_jax[plot]'"
    assert os.listdir() == []
    with pytest.raises(SystemExit):
        fresh.main(["block_mask", "--image", "photo.png"])
    assert capsys.readouterr().err.endswith("--image: pip install 'jepa_masks_jax[plot]'\n")


def help_of(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_grids_and_options_as_the_command_takes_them(capsys, monkeypatch):
    text = help_of(500, capsys, monkeypatch)
    strategies, presets = re.search(r"strategies:\n(.*)\n\npresets:\n(.*)", text, re.S).groups()
    header, *rows = map(str.split, strategies.splitlines())
    assert header == ["name", "default", "grid", "options"]
    assert [row[:2] for row in rows] == [
        [name, "x".join(map(str, grid))] for name, grid in STRATEGIES.items()
    ]
    options = {row[0]: row[2:] for row in rows}
    assert options["block_mask"] == [
        "num_targets=4",
        "target_scale=0.15,0.2",
        "target_aspect_ratio=0.75,1.5",
    ]
    assert "extent=(2,6),(2,6)" in options["box_mask"]
    assert "aspect_ratio=0.3,3.333" in options["blockwise_mask"]
    lines = [line.strip() for line in presets.splitlines()]
    assert [line.split()[0] for line in lines] == jm.presets.__all__
    assert sorted(PRESETS) == sorted(jm.presets.__all__)
    for line in lines:
        name, call, grid = re.fullmatch(r"(\w+) = (.*) on ([\dx]+)", line).groups()
        assert call.startswith(f"{getattr(jm.presets, name).func.__name__}(")
        assert grid == "x".join(map(str, PRESETS[name]))
    assert "mae = random_mask(mask_ratio=0.75) on 14x14" in lines
    assert (
        "capi = inverse_block_mask(mask_ratio=0.65, aspect_ratio=(0.5, 2.0), roll=True) on 16x16"
        in lines
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_wrapped_to_the_terminal(capsys, monkeypatch, columns):
    lines = help_of(columns, capsys, monkeypatch).splitlines()
    assert columns - 30 < max(map(len, lines)) <= columns


def test_a_closed_pipe_ends_the_command_quietly(returns, capfd, monkeypatch):
    returns(from_rows("..#", ".##"))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        command.main(["block_mask", "--batch", "2", "--out", "m.npz"])
    assert capfd.readouterr().err == ""
    assert Path("m.npz").exists()


@pytest.mark.slow
def test_as_a_process_it_ends_with_its_status():
    ended = subprocess.run(
        [sys.executable, "-OO", "-m", "jepa_masks_jax", "block_mask", "--set", "num_targets=0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(command.__file__).parents[1],
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "num_targets" in ended.stderr
