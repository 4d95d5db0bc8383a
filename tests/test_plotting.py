"""A picture shows context, targets and image where they are, whatever the grid and the image."""

import dataclasses
import functools
import importlib
import io
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import jepa_masks_jax as jm
from jepa_masks_jax import plotting

TARGETS = np.array([colors.to_rgb(color) for color in plotting.TARGET_COLORS])
CONTEXT = np.array(colors.to_rgb(plotting.CONTEXT_COLOR))
WHITE = np.ones(3)
SIDE = 224  # the pixels of a 14x14 mask


@pytest.fixture(autouse=True)
def no_windows():
    """Lets pyplot open no windows, and closes the figures of a test."""
    plt.switch_backend("agg")
    yield
    plt.close("all")


def canvas_of(mask, **options):
    (image,) = plotting.show_mask(mask, ax=Figure().add_subplot(), **options).images
    return np.asarray(image.get_array(), np.float64)


def grey_of(pixels):
    """The luminance of RGB pixels in [0, 255], three times, in [0, 1]."""
    return np.repeat(pixels @ [[0.299], [0.587], [0.114]] / 255, 3, axis=-1)


def token_centers(canvas, height):
    token = canvas.shape[0] // height
    return canvas[token // 2 :: token, token // 2 :: token]


def strip_gap(canvas, grid):
    frames, height, width = grid
    return (canvas.shape[1] - frames * width * canvas.shape[0] // height) // (frames - 1)


def frames_of(canvas, grid):
    """Cuts the strip of a video into the token centers of each frame."""
    frames, height, _ = grid
    gap = strip_gap(canvas, grid)
    step = (canvas.shape[1] + gap) // frames
    starts = range(0, canvas.shape[1], step)
    return np.stack([token_centers(canvas[:, s : s + step - gap], height) for s in starts])


def tint_of(pixels, under):
    """The number of the target color toward which each pixel has moved from what lies under it."""
    moved, toward = pixels - under, TARGETS - np.asarray(under)[..., None, :]
    lengths = np.linalg.norm(toward, axis=-1)
    cosines = (moved[..., None, :] * toward).sum(axis=-1) / lengths
    cosines /= np.linalg.norm(moved, axis=-1, keepdims=True)
    np.testing.assert_allclose(cosines.max(axis=-1), 1, atol=1e-5)
    number = cosines.argmax(axis=-1)
    way = np.take_along_axis(np.broadcast_to(lengths, cosines.shape), number[..., None], -1)[..., 0]
    assert (np.linalg.norm(moved, axis=-1) > 0.5 * way).all()
    return number


def pixels_of(figure):
    """What a viewer sees of a figure: float[height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def shows(pixels, color):
    """Whether at least 20 pixels have a color."""
    return (np.abs(pixels - color).max(axis=-1) < 0.01).sum() >= 20


def is_dark(pixels):
    return pixels.max(axis=-1) < 0.5


def blocks(*corners):
    mask = np.zeros((14, 14), bool)
    for top, left, bottom, right in corners:
        mask[top:bottom, left:right] = True
    return mask


BLOCK_MASKS = [
    blocks((1, 2, 5, 6), (9, 9, 14, 14), (4, 4, 7, 9)),
    blocks((0, 0, 1, 14)),
    blocks((13, 0, 14, 1), (0, 13, 1, 14)),
]
SEPARATE = np.stack(
    [
        blocks((1, 1, 6, 7)),
        blocks((0, 5, 5, 11)),  # overlaps the first
        blocks((8, 8, 13, 14)),
        blocks((8, 0, 13, 6)),
    ]
)
IJEPA = jm.ContextTargetMasks(blocks((0, 0, 13, 13)) & ~SEPARATE.any(axis=0), SEPARATE)


@pytest.fixture(scope="module")
def random_image():
    """As large as the picture of a 14x14 mask, so that no pixel is resampled."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray, np.ndarray.tolist])
@pytest.mark.parametrize("mask", BLOCK_MASKS, ids=["blocks", "row", "corners"])
def test_without_an_image_context_and_target_have_their_colors(mask, asarray):
    centers = token_centers(canvas_of(asarray(mask)), 14)
    assert centers.shape == (14, 14, 3)
    np.testing.assert_allclose(
        centers[~mask], np.broadcast_to(CONTEXT, centers[~mask].shape), atol=1e-6
    )
    assert (tint_of(centers[mask], WHITE) == 0).all()


@pytest.mark.parametrize("mask", BLOCK_MASKS, ids=["blocks", "row", "corners"])
def test_over_an_image_the_context_is_clear_and_the_target_is_tinted(mask, random_image):
    canvas = canvas_of(mask, image=random_image)
    inside = np.kron(mask, np.ones((SIDE // 14, SIDE // 14), bool))
    np.testing.assert_allclose(canvas[~inside], random_image[~inside] / 255, atol=1e-6)
    under = grey_of(token_centers(random_image, 14)[mask])
    centers = token_centers(canvas, 14)[mask]
    assert (tint_of(centers, under) == 0).all()
    assert not np.isclose(centers, TARGETS[0]).all(axis=-1).any()  # the image shows through


@pytest.mark.parametrize("side", [14, 48])
def test_a_target_has_an_edge_of_the_full_color(side):
    mask = np.zeros((side, side), bool)
    mask[3:6, 4:9] = True
    canvas = canvas_of(mask, image=np.zeros((SIDE, SIDE, 3), np.uint8))
    token = len(canvas) // side
    block = canvas[3 * token : 6 * token, 4 * token : 9 * token]
    for edge in (block[0], block[-1], block[:, 0], block[:, -1]):
        np.testing.assert_allclose(edge, np.broadcast_to(TARGETS[0], edge.shape))
    inside = block[token:-token, token:-token]
    np.testing.assert_allclose(inside, np.broadcast_to(block[token, token], inside.shape))
    assert not np.allclose(inside[0, 0], TARGETS[0])


def test_edges_are_two_pixels_wide_and_the_last_target_is_on_top():
    first, last = blocks((2, 2, 6, 6)), blocks((4, 4, 9, 9))
    mask = jm.ContextTargetMasks(~(first | last), np.stack([first, last]))
    canvas = canvas_of(mask, image=np.zeros((SIDE, SIDE, 3), np.uint8))
    token = SIDE // 14
    pixels = {
        (0, 3): ["context", "context", 0, 0, "tint of 0", "tint of 0"],  # enters the first
        (1, 5): ["tint of 0", "tint of 0", 1, 1, "tint of 1", "tint of 1"],  # enters the last
        (2, 5): ["tint of 1", 0, 0, "tint of 1", "tint of 1", "tint of 1"],  # leaves the first
        (3, 7): ["tint of 1", 1, 1, "context", "context", "context"],  # leaves the last
    }
    starts = [2 * token - 2, 4 * token - 2, 6 * token - 3, 9 * token - 3]
    wanted = {"context": 0 * CONTEXT, 0: TARGETS[0], 1: TARGETS[1]}
    for (i, column), names in pixels.items():
        middle = column * token + token // 2
        down = canvas[starts[i] : starts[i] + 6, middle]
        across = canvas[middle, starts[i] : starts[i] + 6]
        for line in (down, across):
            for pixel, name in zip(line, names, strict=True):
                if name in wanted:
                    np.testing.assert_allclose(pixel, wanted[name], atol=1e-6)
                else:
                    assert tint_of(pixel, np.zeros(3)) == int(name[-1])
                    assert not np.allclose(pixel, TARGETS[int(name[-1])])
    crossing = canvas[6 * token - 2 : 6 * token, 4 * token : 4 * token + 2]
    np.testing.assert_allclose(crossing, np.broadcast_to(TARGETS[1], crossing.shape))


@pytest.mark.parametrize("with_image", [False, True])
def test_each_target_of_ijepa_has_its_color_and_other_tokens_are_dark(random_image, with_image):
    context, targets = IJEPA
    centers = token_centers(canvas_of(IJEPA, image=random_image if with_image else None), 14)
    photo = token_centers(random_image, 14)
    under = grey_of(photo) if with_image else np.ones((14, 14, 3))
    clear = photo / 255 if with_image else np.broadcast_to(CONTEXT, under.shape)
    np.testing.assert_allclose(centers[context], clear[context], atol=1e-6)
    for i, target in enumerate(targets & (targets.sum(axis=0) == 1)):
        assert (tint_of(centers[target], under[target]) == i).all()
    shared = targets.sum(axis=0) > 1  # by the first two
    assert (tint_of(centers[shared], under[shared]) == 1).all()
    assert is_dark(centers[~context & ~targets.any(axis=0)]).all()


def test_more_targets_than_colors_start_over():
    targets = np.eye(10, dtype=bool).reshape(10, 2, 5)
    mask = jm.ContextTargetMasks(np.zeros((2, 5), bool), targets)
    centers = token_centers(canvas_of(mask), 2)
    assert tint_of(centers, WHITE).ravel().tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


def test_only_context_tokens_keep_the_colors_of_the_image():
    mask = jm.ContextTargetMasks(blocks((0, 0, 4, 14)), blocks((4, 0, 8, 14))[None])
    images = [np.full((20, 20, 3), color, np.uint8) for color in [(200, 0, 0), (0, 102, 0)]]
    red, green = (token_centers(canvas_of(mask, image=image), 14) for image in images)
    np.testing.assert_allclose(red[4:], green[4:], atol=1 / 255)
    np.testing.assert_allclose(red[:4], np.broadcast_to([200 / 255, 0, 0], red[:4].shape))
    np.testing.assert_allclose(green[:4], np.broadcast_to([0, 0.4, 0], green[:4].shape))


def test_a_token_in_both_sets_is_shown_as_a_target():
    both = np.array([[True, False], [False, False]])
    mask = jm.ContextTargetMasks(np.ones((2, 2), bool), both[None])
    centers = token_centers(canvas_of(mask), 2)
    assert tint_of(centers[both], WHITE) == 0
    np.testing.assert_allclose(centers[~both], [CONTEXT] * 3)


def test_the_colors_are_distinct():
    assert len(set(plotting.TARGET_COLORS) | {plotting.CONTEXT_COLOR}) == 1 + len(TARGETS)


VIDEO = (3, 4, 7)


@pytest.fixture(scope="module")
def tubes():
    return np.random.default_rng(2).random(VIDEO) < 0.5


def test_a_video_is_a_strip_of_frames_with_gaps(tubes):
    canvas = canvas_of(tubes)
    centers = frames_of(canvas, VIDEO)
    assert centers.shape == (*VIDEO, 3)
    np.testing.assert_allclose(
        centers[~tubes], np.broadcast_to(CONTEXT, centers[~tubes].shape), atol=1e-6
    )
    assert (tint_of(centers[tubes], WHITE) == 0).all()
    gap = strip_gap(canvas, VIDEO)
    width = (canvas.shape[1] - 2 * gap) // 3
    assert gap > 0
    assert (canvas[:, width : width + gap] == 1).all()
    assert (canvas[:, 2 * width + gap : 2 * (width + gap)] == 1).all()


def test_one_image_stands_under_every_frame_of_a_video(tubes):
    grey = np.full((50, 80), 102, np.uint8)
    centers = frames_of(canvas_of(tubes, image=grey), VIDEO)
    np.testing.assert_allclose(centers[~tubes], 0.4)
    assert (tint_of(centers[tubes], np.full(3, 0.4)) == 0).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_video_has_one_image_for_each_frame(tubes, channels):
    images = np.full((3, 50, 80, channels), 255, np.uint8)
    images[0, ..., :3], images[1, ..., :3], images[2, ..., :3] = 51, 102, 153
    centers = frames_of(canvas_of(tubes, image=images), VIDEO)
    for i, shade in enumerate([0.2, 0.4, 0.6]):
        np.testing.assert_allclose(centers[i][~tubes[i]], shade)


@pytest.mark.parametrize("length", [4, 7, 100, 1214])
def test_a_sequence_is_a_bar_at_least_a_sixteenth_as_high_as_long(length):
    mask = np.random.default_rng(0).random(length) < 0.5
    for grid in ((length,), (1, length)):
        canvas = canvas_of(mask.reshape(grid))
        high, wide = canvas.shape[:2]
        assert 1 <= wide / high < 17
        centers = canvas[high // 2, wide // length // 2 :: wide // length]
        assert centers.shape == (length, 3)
        blue = centers[:, 2] > centers[:, 0]
        np.testing.assert_array_equal(blue, ~mask)


@pytest.mark.parametrize("grid", [(8_000,), (20_000,), (3, 5_000), (5_000, 3), (400, 4, 4)])
def test_a_picture_of_a_large_grid_has_some_thousand_pixels_a_side(grid):
    mask = np.arange(np.prod(grid)).reshape(grid) < np.prod(grid) / 2
    canvas = canvas_of(mask)
    assert max(canvas.shape) <= 2_600
    blue = canvas[..., 2] > canvas[..., 0]
    assert 0.3 < blue.mean() < 0.55


def test_the_targets_of_a_sequence_have_their_colors():
    targets = np.arange(40) // 10 == np.arange(4)[:, None]
    targets[3, 35:] = False
    masks = jm.ContextTargetMasks(np.zeros(40, bool), targets)
    canvas = canvas_of(masks)
    high, wide = canvas.shape[:2]
    centers = canvas[high // 2, wide // 80 :: wide // 40]
    assert tint_of(centers[:35], WHITE).tolist() == [i // 10 for i in range(35)]
    assert is_dark(centers[35:]).all()


COLOR = np.array([51, 102, 204])
IMAGES = {
    "RGB": (np.full((40, 30, 3), COLOR, np.uint8), COLOR / 255),
    "RGBA": (np.full((40, 30, 4), [*COLOR, 255], np.uint8), COLOR / 255),
    "grey": (np.full((40, 30), 102, np.uint8), [0.4] * 3),
    "float32": (np.full((40, 30, 3), COLOR / 255, np.float32), COLOR / 255),
    "float64 grey": (np.full((40, 30), 0.4), [0.4] * 3),
    "of JAX": (jnp.full((40, 30, 3), 0.4), [0.4] * 3),
    "one pixel": (np.full((1, 1, 3), COLOR, np.uint8), COLOR / 255),
}


@pytest.mark.parametrize(("image", "color"), IMAGES.values(), ids=IMAGES)
def test_an_image_of_any_kind_lies_under_the_mask(image, color):
    mask = np.array([[True, False, False], [False, False, False]])
    centers = token_centers(canvas_of(mask, image=image), 2)
    np.testing.assert_allclose(centers[~mask], np.broadcast_to(color, (5, 3)), atol=0.51 / 255)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((55, 55), (14, 14)), ((480, 640), (12, 16)), ((3, 999), (14, 14)), ((601, 7), (70,))],
)
def test_an_image_of_any_size_is_cropped_at_its_center(size, grid):
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, size[0]).round()[:, None]
    image[..., 1] = np.linspace(0, 255, size[1]).round()
    canvas = canvas_of(np.zeros(grid, bool), image=image)
    np.testing.assert_allclose(canvas.mean(axis=(0, 1)), [0.5, 0.5, 0], atol=0.02)
    np.testing.assert_allclose(canvas + canvas[::-1, ::-1], [[[1, 1, 0]]] + 0 * canvas, atol=0.1)


def test_an_image_of_another_shape_is_cropped_at_its_center_not_squeezed():
    wide = np.zeros((100, 200, 3), np.uint8)
    wide[:, 50:150, 1] = 255
    mask = np.zeros((10, 10), bool)
    for image in (wide, wide.transpose(1, 0, 2)):
        centers = token_centers(canvas_of(mask, image=image), 10)
        np.testing.assert_allclose(centers, np.broadcast_to([0, 1, 0], centers.shape), atol=0.01)


def test_the_picture_of_a_wide_grid_is_wide():
    canvas = canvas_of(np.zeros((5, 70), bool))
    assert canvas.shape[1] == 14 * canvas.shape[0]


def test_it_draws_on_the_given_axes_and_on_no_other():
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert plotting.show_mask(np.eye(3, dtype=bool), ax=second) is second
    assert len(second.images) == 1
    assert not first.images


def test_a_mask_without_axes_is_a_figure_of_pyplot(tmp_path):
    ax = plotting.show_mask(np.eye(3, dtype=bool))
    assert plt.gcf() is ax.figure
    plt.title("of the mask")
    assert ax.get_title() == "of the mask"
    plt.savefig(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert shows(np.asarray(picture.convert("RGB")) / 255, CONTEXT)
    legend = plotting.show_legend()
    assert plt.gcf() is legend.figure is not ax.figure
    assert len(plt.get_fignums()) == 2


def test_pyplot_warns_once_of_more_than_twenty_open_masks():
    for _ in range(20):
        plotting.show_mask(np.eye(2, dtype=bool))
    with pytest.warns(RuntimeWarning, match="More than 20 figures"):
        plotting.show_mask(np.eye(2, dtype=bool))


def test_what_is_refused_leaves_no_figure_open():
    for options in ({"image": np.zeros(9)}, {"within": (1,)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            plotting.show_mask(MASK, **options)
    for options in ({"image": np.zeros(9)}, {"num_targets": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            plotting.show_legend(**options)
    assert not plt.get_fignums()


MASK = np.eye(4, dtype=bool)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("targets_apart", [False, True])
@pytest.mark.parametrize("asarray", [tuple, np.uint8, jnp.array])
def test_tokens_outside_the_sides_of_the_sample_are_white(rank, targets_apart, asarray):
    grid, within = (4, 8, 10)[-rank:], (3, 5, 7)[-rank:]
    true = np.zeros(grid, bool)
    true[tuple(map(slice, within))] = True
    target = true & (np.random.default_rng(0).random(grid) < 0.5)
    mask = jm.ContextTargetMasks(true & ~target, target[None]) if targets_apart else target
    image = np.random.default_rng(1).integers(0, 200, (90, 126, 3), np.uint8)
    for under in (None, image):
        canvas = canvas_of(mask, image=under, within=asarray(within))
        if rank == 1:
            token = canvas.shape[1] // 10
            centers = canvas[canvas.shape[0] // 2, token // 2 :: token]
        else:
            centers = token_centers(canvas, 8) if rank == 2 else frames_of(canvas, grid)
        np.testing.assert_array_equal((centers == 1).all(axis=-1), ~true)
        if under is None:
            blue = centers[..., 2] > centers[..., 0]
            np.testing.assert_array_equal(blue & true, true & ~target)


def test_an_image_covers_the_real_part():
    image = np.zeros((50, 70, 3), np.uint8)
    image[-10:, :, 0], image[:, -10:, 1] = 255, 255  # the last row and column of 5x7 tokens
    centers = token_centers(canvas_of(np.zeros((8, 8), bool), image=image, within=(5, 7)), 8)
    np.testing.assert_allclose(centers[4, :6], [[1, 0, 0]] * 6, atol=0.05)
    np.testing.assert_allclose(centers[:4, 6], [[0, 1, 0]] * 4, atol=0.05)
    np.testing.assert_allclose(centers[:4, :6], np.zeros((4, 6, 3)), atol=0.05)


def test_a_token_of_less_than_a_pixel_is_not_lost():
    canvas = canvas_of(np.zeros(10_000, bool), within=(1,))
    assert 1 <= (canvas != 1).any(axis=(0, 2)).sum() <= 2


def test_sides_are_clamped_to_the_grid_and_to_one_token():
    canvas = canvas_of(np.zeros((8, 10), bool), within=(99, 0))
    context = (token_centers(canvas, 8) != 1).any(axis=-1)
    np.testing.assert_array_equal(context, np.arange(10)[None].repeat(8, 0) == 0)


@pytest.mark.parametrize("sides", [(9, 10**20), np.array([9, 2**63], np.uint64)])
def test_sides_beyond_any_array_are_clamped_as_those_of_strategies(sides):
    np.testing.assert_array_equal(canvas_of(MASK, within=sides), canvas_of(MASK))
    figure = plotting.show_masks(MASK[None], within=sides)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), canvas_of(MASK))


def places_of(figure, count):
    """Left, bottom, width and height in inches of the axes of the masks."""
    sizes = np.tile(figure.get_size_inches(), 2)
    return np.array([ax.get_position().bounds for ax in figure.axes[:count]]) * sizes


def legend_of(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def random_masks(*shape):
    return np.random.default_rng(3).random(shape) < 0.5


@pytest.mark.parametrize(
    ("shape", "columns", "least"),
    [
        ((7, 14, 14), 4, (2, 2)),
        ((2, 14, 14), 2, (2, 2)),
        ((3, 8, 14, 14), 1, (9, 1)),
        ((2, 3, 14, 14), 1, (6, 2)),
        ((3, 100), 1, (9, 0.5)),
        ((2, 7), 1, (9, 0.5)),
        ((3, 16, 64), 1, (9, 2)),
        ((5, 64, 8), 5, (0.4, 4)),
    ],
)
def test_masks_of_a_batch_stand_in_rows_large_enough_to_see(shape, columns, least):
    masks, titles = random_masks(*shape), [f"number {i}" for i in range(shape[0])]
    figure = plotting.show_masks(masks, titles=titles)
    places = places_of(figure, len(masks))
    left, bottom, width, height = places.T
    order = np.lexsort((left, -bottom.round(3)))
    assert order.tolist() == list(range(len(masks)))
    assert (bottom.round(3) == bottom[0].round(3)).sum() == columns
    assert (width >= least[0]).all()
    assert (height >= least[1]).all()
    assert (places >= 0).all()
    assert (left + width).max() <= figure.get_size_inches()[0] <= 10.001
    assert (bottom + height).max() <= figure.get_size_inches()[1] - 0.3  # room for the title
    if columns > 1:
        assert (left[1:columns] > (left + width)[: columns - 1]).all()
    for ax, mask, title in zip(figure.axes, masks, titles, strict=False):
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array(), canvas_of(mask))
        ratio = image.get_array().shape[1] / image.get_array().shape[0]
        assert width[0] / height[0] == pytest.approx(ratio)
        assert ax.get_title(loc="left") == title
    assert legend_of(figure) == ["context: seen", "target: predicted"]


def test_masks_of_a_batch_have_targets_images_and_sides_of_their_own():
    context, targets = random_masks(2, 6, 6), random_masks(2, 4, 6, 6)
    images = [np.full((9, 9), shade, np.uint8) for shade in (50, 200)]
    masks = jm.ContextTargetMasks(jnp.asarray(context & ~targets.any(1)), jnp.asarray(targets))
    each, of_all = jnp.asarray([[6, 6], [3, 5]]), jnp.asarray([4, 4])
    for image, within in [(images, each), (images[0], of_all), (None, None)]:
        figure = plotting.show_masks(masks, image=image, within=within)
        for i, ax in enumerate(figure.axes[:2]):
            under = image[i] if image is images else image
            sides = each[i] if within is each else within
            one = jm.ContextTargetMasks(masks.context[i], masks.targets[i])
            expected = canvas_of(one, image=under, within=sides)
            np.testing.assert_array_equal(ax.images[0].get_array(), expected)
        assert legend_of(figure) == ["context: seen", "target: predicted", "neither"]


def test_padding_is_not_neither():
    padded = plotting.show_masks(np.zeros((2, 6, 6), bool), within=(3, 3))
    assert legend_of(padded) == ["context: seen", "target: predicted"]


def test_the_legend_of_a_batch_has_all_target_colors_and_the_image():
    masks = jm.ContextTargetMasks(*(np.stack([part] * 2) for part in IJEPA))
    photo = np.full((9, 9, 3), (51, 102, 204), np.uint8)
    grey = grey_of(photo[0, 0].astype(float))
    for image in (photo, [None, photo]):
        figure = plotting.show_masks(masks, image=image)
        lowest = min(ax.get_window_extent().y0 for ax in figure.axes[:2])
        legend = pixels_of(figure)[-int(lowest) :]
        assert shows(legend, photo[0, 0] / 255)
        for color in TARGETS[:4]:
            assert shows(legend, 0.15 * grey + 0.85 * color)
        assert not shows(legend, 0.15 * grey + 0.85 * TARGETS[4])


def test_a_figure_of_a_batch_shows_itself_and_is_none_of_pyplot():
    indices = jm.token_indices(~MASK, size=12)
    chain = plotting.show_chain(MASK, indices, image=np.zeros((9, 9)))
    for figure in (plotting.show_masks(MASK[None]), chain):
        with Image.open(io.BytesIO(figure._repr_png_())) as picture:
            assert shows(np.asarray(picture.convert("RGB")) / 255, np.zeros(3))
            assert np.abs(picture.size - figure.bbox.size).max() <= 1
    assert not plt.get_fignums()


def test_dollars_in_a_title_are_no_formula():
    formula, plain = (plotting.show_masks(MASK[None], titles=[t]) for t in ("$x$", "x"))
    extents = [(pixels_of(f) < 0.5).all(axis=-1)[:30].any(axis=0).sum() for f in (formula, plain)]
    assert extents[0] > extents[1]
    pixels_of(plotting.show_masks(MASK[None], titles=[r"$\nothing$"]))  # A formula would raise.


@pytest.mark.parametrize("grid", [(40,), (3, 14, 14)])
def test_outlines_are_thin_on_strips_and_frames(grid):
    half = np.zeros(grid, bool)
    half[..., : grid[-1] // 2] = True
    canvas = canvas_of(half)
    for line in (canvas[len(canvas) // 2], canvas[:, 8]):  # across, and down through the target
        outline = (np.abs(line - TARGETS[0]).max(axis=-1) < 1e-6).mean()
        assert 0 < outline < 0.05


@pytest.mark.parametrize("grid", [(6, 6), (4, 6), (4, 8)])
def test_the_chain_shows_each_listed_patch_in_its_places(grid):
    rows, columns = grid
    side = 432 // max(grid)
    image = np.random.default_rng(4).integers(0, 200, (rows * side, columns * side, 3), np.uint8)
    context = np.zeros(grid, bool)
    context.flat[[1, 7, 14, 20]] = True
    figure = plotting.show_chain(~context, jm.token_indices(context, size=6), image=image)
    whole, mask, listed, patches, back, legend = figure.axes
    np.testing.assert_array_equal(whole.images[0].get_array(), image)
    np.testing.assert_array_equal(mask.images[0].get_array(), canvas_of(~context, image=image))
    seen = np.kron(context, np.ones((side, side), bool))[..., None]
    np.testing.assert_array_equal(back.images[0].get_array(), np.where(seen, image, 255))
    assert [text.get_text() for text in legend.texts] == [
        "context: seen",
        "target: predicted",
        "hatched: padding",
    ]

    pixels_of(figure)  # lays it out
    inside = mask.transAxes.inverted()
    for text, n in zip(mask.texts, [1, 7, 14, 20], strict=True):
        assert text.get_text() == str(n)
        right, up = inside.transform(text.get_window_extent().get_points().mean(axis=0))
        assert int((1 - up) * rows) * columns + int(right * columns) == n
    numbers = ["1", "7", "14", "20", str(rows * columns), str(rows * columns)]
    assert [text.get_text() for text in listed.texts] == numbers
    for ax in (listed, patches):
        assert [box.get_hatch() is not None for box in ax.patches] == [False] * 4 + [True] * 2
        boxes = [box.get_window_extent() for box in ax.patches]
        assert boxes == sorted(boxes, key=lambda box: (-box.y0.round(3), box.x0))
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for patch, box, n in zip(patches.images, patches.patches, [1, 7, 14, 20], strict=False):
        top, left = (at * side for at in divmod(n, columns))
        wanted = image[top : top + side, left : left + side]
        np.testing.assert_array_equal(patch.get_array(), wanted)
        shown, frame = patch.get_window_extent(), box.get_window_extent()
        np.testing.assert_allclose(shown.get_points(), frame.get_points())


def test_the_chain_reads_from_one_to_five_with_a_line_around_every_token():
    mask = np.arange(24).reshape(4, 6) % 3 > 0
    indices = jm.token_indices(~mask, size=8)
    figure = plotting.show_chain(mask, indices, image=np.zeros((9, 9)))
    pixels_of(figure)
    places = [ax.get_position() for ax in figure.axes[:5]]
    assert [ax.get_title(loc="left")[0] for ax in figure.axes[:5]] == list("12345")
    assert sorted(places, key=lambda box: (-round(box.y1, 1), box.x0)) == places
    for i in (0, 1, 4):
        ax = figure.axes[i]
        box = ax.get_window_extent()
        x, y = ax.get_xticks(), ax.get_yticks()
        assert (len(y), len(x)) == (5, 7)
        at = ax.transData.transform([*((one, 0) for one in x), *((0, one) for one in y)])
        np.testing.assert_allclose(at[:7, 0], np.linspace(box.x0, box.x1, 7))
        np.testing.assert_allclose(at[7:, 1], np.linspace(box.y1, box.y0, 5))
    assert "hatched: padding" not in legend_of(figure)


@pytest.mark.parametrize("num_targets", [1, 4])
@pytest.mark.parametrize("image", [None, np.full((9, 9), 102, np.uint8)], ids=["none", "grey"])
def test_the_legend_shows_the_colors_of_the_masks(num_targets, image):
    axes = Figure().add_axes((0, 0, 1, 1))
    assert plotting.show_legend(num_targets=num_targets, image=image, ax=axes) is axes
    context, target, neither = (
        np.asarray(ax.images[0].get_array(), float) for ax in axes.child_axes
    )
    under = WHITE if image is None else np.full(3, 0.4)
    np.testing.assert_allclose(
        context, np.broadcast_to(CONTEXT if image is None else under, context.shape)
    )
    wide = target.shape[1] // num_targets
    middles = target[len(target) // 2, wide // 2 :: wide]
    assert tint_of(middles, under).tolist() == list(range(num_targets))
    assert is_dark(neither).all()


@pytest.mark.parametrize("size", [(6, 0.23), (1.27, 1.27), (6.4, 4.8)])
def test_a_legend_has_its_texts_beside_its_colors_in_any_axes(size):
    figure = Figure(figsize=size)
    axes = plotting.show_legend(num_targets=4, ax=figure.add_axes((0, 0, 1, 1)))
    pixels_of(figure)
    for swatch, text in zip(axes.child_axes, axes.texts, strict=True):
        color, words = swatch.get_window_extent(), text.get_window_extent()
        assert color.x1 < words.x0 < color.x1 + 40
        assert color.y0 < (words.y0 + words.y1) / 2 < color.y1
        assert words.x1 <= figure.bbox.x1
    extents = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(extents, 2))


LIST = jm.token_indices(MASK, size=4)
BATCH_OF_LISTS = jax.vmap(lambda mask: jm.token_indices(mask, size=4))(np.ones((2, 4, 4), bool))
ROW = jm.token_indices(np.ones((2, 8), bool), size=16, per_row=2)
BYTES, TWO = functools.partial(np.zeros, dtype=np.uint8), np.stack([MASK] * 2)


def off_the_grid(index):
    return dataclasses.replace(LIST, indices=LIST.indices.at[1].set(index))


def refused(error, match, function, *args, **options):
    return functools.partial(function, *args, **options), error, match


mask_type = functools.partial(refused, TypeError, "boolean", plotting.show_mask)
mask_error = functools.partial(refused, ValueError, "mask", plotting.show_mask)
sides_error = functools.partial(refused, (TypeError, ValueError), "within", plotting.show_mask)
pixel_error = functools.partial(
    refused, ValueError, r"image must be uint8 or float in \[0, 1\], got ", plotting.show_mask, MASK
)
image_error = functools.partial(refused, ValueError, "image", plotting.show_mask)
chain = functools.partial(plotting.show_chain, image=np.zeros((9, 9)))
chain_error = functools.partial(refused, ValueError, "mask must be that of one image, and", chain)
REFUSED = {
    "int": mask_type(MASK.astype(np.int32)),
    "float": mask_type(MASK.astype(np.float32)),
    "int context": mask_type(jm.ContextTargetMasks(MASK.astype(int), MASK[None])),
    "int targets": mask_type(jm.ContextTargetMasks(MASK, MASK[None].astype(int))),
    "no axis": mask_error(np.array(True)),
    "four axes": mask_error(np.zeros((2, 2, 2, 2), bool)),
    "no token": mask_error(np.zeros((0, 3), bool)),
    "a batch of masks": mask_error(jm.ContextTargetMasks(TWO, TWO[:, None])),
    "targets of another grid": mask_error(jm.ContextTargetMasks(MASK, np.zeros((4, 2, 2), bool))),
    **{
        f"within={within}": sides_error(MASK, within=within)
        for within in [(3,), (3, 3, 3), 3, (2.0, 3.0), [[3, 3]]]
    },
    "above": pixel_error(image=np.full((9, 9, 3), 1.5)),
    "below": pixel_error(image=np.full((9, 9, 3), -0.5)),
    "to 255": pixel_error(image=np.linspace(0, 255, 81).reshape(9, 9)),
    "NaN": pixel_error(image=np.full((9, 9), np.nan)),
    **{
        f"pixels of {np.dtype(dtype)}": pixel_error(image=np.zeros((9, 9), dtype))
        for dtype in (np.int32, bool, np.uint16, complex)
    },
    "one axis": image_error(MASK, image=np.zeros(9)),
    "five channels": image_error(MASK, image=BYTES((9, 9, 5))),
    "no pixel": image_error(MASK, image=BYTES((0, 9, 3))),
    "two for one mask": image_error(MASK, image=BYTES((2, 9, 9, 3))),
    "three for two frames": image_error(TWO, image=BYTES((3, 9, 9, 3))),
    "five axes": image_error(TWO, image=BYTES((1, 2, 9, 9, 3))),
    **{
        f"batch: {match}": refused(ValueError, match, plotting.show_masks, masks, **options)
        for masks, options, match in [
            (np.array(True), {}, "batch"),
            (np.zeros((0, 3, 3), bool), {}, "batch .*got"),
            (jm.ContextTargetMasks(TWO, np.stack([TWO] * 3)), {}, "a batch"),
            (np.zeros((2, 2, 2, 2, 2), bool), {}, "axes"),
            (TWO, {"titles": ["one"]}, "titles .* 2 masks, got 1"),
            (TWO, {"within": [[1]] * 3}, "within .* 2 masks, got 3"),
            (TWO, {"within": [[1, 1, 1]] * 2}, "within"),
            (TWO, {"image": [np.zeros((2, 2))]}, "image .* 2 masks, got 1"),
        ]
    },
    "chain of a video": chain_error(TWO, LIST),
    "chain of one frame": chain_error(MASK[None], LIST),
    "chain of a sequence": chain_error(MASK.ravel(), LIST),
    "chain of another grid": chain_error(np.eye(2, dtype=bool), LIST),
    "a batch of lists": chain_error(MASK, BATCH_OF_LISTS),
    "a row of two": chain_error(MASK, ROW),
    "no list": refused(
        TypeError, "indices must be what token_indices .*tuple", chain, MASK, (1, 2)
    ),
    **{
        f"token {index}": refused(
            ValueError, rf"\[0, 16\) where valid, got {index}$", chain, MASK, off_the_grid(index)
        )
        for index in (-1, 16, 2**31 - 1)
    },
    "no target": refused(ValueError, "num_targets", plotting.show_legend, num_targets=0),
    "frames": refused(ValueError, "image", plotting.show_legend, image=np.zeros((2, 9, 9, 3))),
}


@pytest.mark.parametrize(("call", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shown_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_the_photograph_is_a_color_picture():
    photograph = plotting.photograph()
    assert photograph.dtype == np.uint8
    assert photograph.ndim == 3
    assert photograph.shape[2] == 3
    assert min(photograph.shape[:2]) >= SIDE
    assert photograph.std(axis=(0, 1)).min() > 20
    assert (photograph[..., 0] != photograph[..., 2]).mean() > 0.5


def test_without_matplotlib_the_import_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "jepa_masks_jax.plotting")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        importlib.import_module("jepa_masks_jax.plotting")


def test_the_package_has_plotting_as_an_attribute(monkeypatch):
    monkeypatch.delattr(jm, "plotting")
    assert jm.plotting is plotting
    assert "plotting" in dir(jm)
    assert "plotting" not in jm.__all__
    assert {*jm.__all__} < {*dir(jm)}
    with pytest.raises(AttributeError, match="has no attribute 'ploting'"):
        _ = jm.ploting


def test_without_matplotlib_the_attribute_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "jepa_masks_jax.plotting")
    monkeypatch.delattr(jm, "plotting")
    assert not hasattr(jm, "plotting")
    with pytest.raises(AttributeError, match="pip install") as caught:
        _ = jm.plotting
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
