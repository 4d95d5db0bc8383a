"""The length of a list is that of nearly all masks, alone or in rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from modes import x64

import jepa_masks_jax as jm

GRID = (8, 8)


def draw(key):
    """Two targets and the rest, of any counts."""
    scores = jax.random.bits(key, (2, *GRID), np.uint32)
    targets = scores < scores[:, :1, :1] >> 1
    return jm.ContextTargetMasks(~targets.any(0), targets)


@functools.cache
def counts():
    """The counts of other masks than those that `list_size` draws."""
    masks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(7), 10_240))
    return np.asarray(masks.context.sum((1, 2))), np.asarray(masks.targets.sum((2, 3)))


def totals(per_row, group):
    """The totals of rows, sorted and dealt out by hand."""
    found = []
    for context, targets in zip(
        *(of.reshape(-1, group, *of.shape[1:]) for of in counts()), strict=True
    ):
        order = np.argsort(context, kind="stable").reshape(per_row, -1)
        rows = np.where(np.arange(per_row)[:, None] % 2, order[:, ::-1], order)  # a snake
        found.append([context[rows].sum(0), targets[rows].sum(0)])
    context, targets = zip(*found, strict=True)
    return np.ravel(context), np.ravel(targets)


@pytest.mark.parametrize(("per_row", "group"), [(1, 1), (2, 16), (4, 64)])
def test_one_list_in_a_hundred_is_longer(per_row, group):
    """The fraction of longer lists is 1 % within six standard deviations of both samples."""
    sizes = jm.list_size(draw, per_row=per_row, group=group)
    assert isinstance(sizes, jm.ContextTargetMasks)
    for size, counts in zip(sizes, totals(per_row, group), strict=True):
        assert type(size) is int
        off = 6 * np.sqrt(2 * 0.01 * 0.99 / counts.size)
        assert (counts > size).mean() < 0.01 + off
        assert (counts >= size).mean() > 0.01 - off


def test_published_lengths():
    """Lengths of I-JEPA on 14x14 are those that the guide to rows and the README print."""

    def ijepa(key):
        return jm.presets.ijepa(key, (14, 14))

    assert jm.list_size(ijepa) == (131, 42)
    assert jm.list_size(ijepa, per_row=2, group=256) == (188, 78)
    assert jm.list_size(lambda key: ijepa(key).context, per_row=2, group=8) == 217


def test_exact_counts_have_their_count():
    def context(key):
        return jnp.arange(20).reshape(4, 5) < 7

    assert jm.list_size(lambda key: {"a": context(key), "b": ~context(key)}) == {"a": 7, "b": 13}
    assert jm.list_size(context, per_row=3, group=6) == 21
    assert jm.list_size(context, multiple=8) == 8
    assert jm.list_size(context, multiple=128) == 20  # all tokens
    assert jm.list_size(lambda key: jnp.zeros(4, bool)) == 1
    assert jm.list_size(lambda key: (context(key), jnp.stack([context(key)] * 3))) == (7, 7)


def test_the_quantile_is_a_count_that_occurs():
    def context(key):
        return jnp.arange(20) < jax.random.randint(key, (), 1, 20)

    assert jm.list_size(context, quantile=1.0) == 19
    assert jm.list_size(context, quantile=0.001) == 1
    assert abs(jm.list_size(context, quantile=0.5) - 10) <= 1


def test_the_size_depends_on_nothing_but_the_masks():
    expected = jm.list_size(draw)

    @jax.jit
    def step(key):
        return jm.token_indices(draw(key).context, size=jm.list_size(draw).context).indices

    assert step(jax.random.key(0)).shape == (expected.context,)
    with x64(True):
        assert jm.list_size(draw) == expected
    default = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        assert jm.list_size(draw) == expected
    finally:
        jax.config.update("jax_default_prng_impl", default)


def test_a_size_is_found_in_shard_map_without_jit_and_without_transfers():
    def step(x):
        return x * jm.list_size(lambda key: ~jm.random_mask(key, (4,), num_masked=1))

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    over_devices = jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert over_devices(jnp.ones(1, int)).tolist() == [3]
    with jax.disable_jit():
        assert step(1) == 3
    with jax.transfer_guard("disallow"):
        assert step(1) == 3


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_masks_of_traced_arrays_have_no_size(transform):
    @transform
    def step(real):
        return real * jm.list_size(lambda key: jm.presets.mae(key, (4,), among=real))

    with pytest.raises(TypeError, match="draw must not close over traced arrays"):
        step(jnp.ones((4,) if transform is jax.jit else (2, 4), bool))


def test_samples_of_drawn_sides():
    def context(key):
        side_key, mask_key = jax.random.split(key)
        sides = jax.random.randint(side_key, (2,), 3, 7)
        target = jm.presets.mae(mask_key, GRID, within=sides)
        return jm.inside(GRID, sides) & ~target

    assert jm.list_size(context, quantile=1.0) == 36 - 27  # sides are at most 6


@pytest.mark.parametrize(
    ("drawn", "options", "error", "message"),
    [
        (jnp.ones(4, bool), {}, TypeError, r"draw must be a function of a key, got bool\[4\]"),
        (lambda key: 3, {}, TypeError, "draw must return a mask or a pytree of masks"),
        (lambda key: None, {}, TypeError, "boolean arrays with axes, .* got None"),
        (lambda key: draw(key).context.sum(), {}, TypeError, r"with axes, .* got int32\[\]"),
        (lambda key: (draw(key).context, key), {}, TypeError, r"got key<fry>\[\] at \[1\]"),
        (lambda key: jm.ijepa_counts(GRID), {}, TypeError, r"at \.min_keep"),
        (lambda key: jnp.any(draw(key).context), {}, TypeError, r"with axes, .* got bool\[\]"),
        (lambda key: jnp.ones((2, 0), bool), {}, TypeError, r"of length 0, got bool\[2, 0\]"),
        (draw, {"per_row": 2}, TypeError, "group, how many samples .*, must be given"),
        (draw, {"per_row": 2, "group": 5}, ValueError, "multiple of per_row=2, got 5"),
        (draw, {"per_row": 0}, ValueError, "per_row must be at least 1"),
        (draw, {"group": 0}, ValueError, "group must be at least 1"),
        (draw, {"quantile": 0.0}, ValueError, r"quantile must be in \(0, 1\]"),
        (draw, {"multiple": 1.5}, TypeError, "multiple must be an integer"),
    ],
)
def test_what_is_no_draw_is_refused(drawn, options, error, message):
    with pytest.raises(error, match=message):
        jm.list_size(drawn, **options)


def test_what_a_length_drops_and_computes_by_hand():
    masks = np.arange(10) < np.array([[2], [4], [9]])
    stats = jm.mask_statistics(masks)
    assert stats.dropped(4) == pytest.approx(5 / 15)
    assert stats.computed(4) == pytest.approx(12 / 10)
    assert (stats.dropped(9), stats.dropped(99)) == (0, 0)
    assert stats.computed(np.int64(30)) == pytest.approx(90 / 15)
    assert stats.computed(np.int32(2**31 - 1)) == pytest.approx(3 * (2**31 - 1) / 15)
    nothing = jm.mask_statistics(np.zeros((2, 4), bool))
    assert (nothing.dropped(2), nothing.computed(2)) == (0, np.inf)
    with pytest.raises(ValueError, match="size must be at least 1"):
        stats.dropped(0)


def test_statistics_print_in_a_line():
    text = str(jm.mask_statistics(np.ones((7, 8, 14, 14), bool)))
    assert "mean=1568.0" in text
    assert "coverage=float64[8, 14, 14]" in text
    assert len(text) < 250
    assert "\n" not in text
