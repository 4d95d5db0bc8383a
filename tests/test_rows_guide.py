"""The guide to rows: its code runs, prints what it says, and computes what each sample alone does.

The fast tests take the functions of the page to small grids. tests/interop runs its blocks of Flax
and Equinox.
"""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_devices import COLLECTIVE

import jepa_masks_jax as jm

PAGE = Path(__file__).parents[1] / ".github" / "ROWS.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
pytestmark = pytest.mark.usefixtures("users_promotion")
CODE = "".join(block for block in BLOCKS if not re.search("flax|equinox", block))
KEY, WIDTH = jax.random.key(0), 8
IMAGE, CLIP = (6, 6), (2, 6, 6)


def some_masks(key):
    """A context and two targets: any counts do, and these compile sooner than I-JEPA's."""
    context, *targets = jax.random.bernoulli(key, 0.4, (3, *IMAGE))
    return jm.ContextTargetMasks(context & ~targets[0], jnp.stack(targets) & ~context)


def some_context(share):
    return lambda key: jax.random.bernoulli(key, share, CLIP)


@pytest.fixture
def page():
    """The functions of the page, with settings of small grids; no row drops a token."""
    defined = [
        statement
        for statement in ast.parse(CODE).body
        if isinstance(statement, ast.Import | ast.FunctionDef)
    ]
    known = {}
    exec(compile(ast.Module(defined, []), PAGE.name, "exec"), known)
    known.update(PER_ROW=2, POOL=8, BATCH=4, grid=IMAGE, sizes=(72, 72))
    known.update(draw_ijepa=some_masks)
    known.update(ranges=(some_context(0.7), some_context(0.3)), clip_sizes=[144, 144])
    return known


def model(tokens, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    draw = lambda key, *shape: jax.random.normal(key, shape) / WIDTH**0.5  # noqa: E731
    return {
        "positions": draw(keys[0], tokens, WIDTH),
        "encoder": draw(keys[1], WIDTH, WIDTH),
        "predictor": draw(keys[2], WIDTH, WIDTH),
        "mask_token": draw(keys[3], WIDTH),
    }


def assert_close(got, expected, tolerance=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.abs(other).max() > 0
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


def test_the_page_is_short_and_divides_no_indices():
    assert len(TEXT.splitlines()) <= 270
    assert not re.search(r"indices\)? *(//|%)|\[:, None\] ==|\* *\w*\.valid", TEXT)
    assert all(len(line) <= 100 for block in BLOCKS for line in block.splitlines())


@pytest.mark.slow
def test_the_page_runs_compiles_its_step_once_and_prints_what_its_comments_say(capsys):
    known = {}
    exec(CODE, known)
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", CODE, re.M)
    assert capsys.readouterr().out.splitlines() == comments
    assert comments.count("compiling") == 1
    assert np.isfinite(known["loss"])


# The steps


def loss_of_each_alone(params, teacher, patches, context, targets, distance):
    """The loss of targets bool[B, M, *grid] on the whole grid of each sample, without lists."""

    def attend(weights, x, keys=True):
        logits = x @ weights @ x.T / WIDTH**0.5
        return jax.nn.softmax(jnp.where(keys, logits, -1e30)) @ x

    def errors(patches, context, targets):
        goal = attend(teacher["encoder"], patches + teacher["positions"])
        features = attend(params["encoder"], patches + params["positions"], context)
        x = jnp.where(context[:, None], features, params["mask_token"]) + params["positions"]

        def of_target(target):
            predicted = attend(params["predictor"], x, context | target)
            return jnp.sum(distance(predicted - goal).mean(-1), where=target)

        return jax.vmap(of_target)(targets).sum()

    samples, tokens, _ = patches.shape
    context, targets = context.reshape(samples, tokens), targets.reshape(samples, -1, tokens)
    return jax.vmap(errors)(patches, context, targets).sum() / targets.sum()


def flat(rows):
    return rows.reshape(-1, *rows.shape[2:])


def test_loss_and_gradients_of_the_ijepa_step_are_those_of_each_image_alone(page):
    params, teacher = model(36), model(36, seed=1)
    patches = jax.random.normal(KEY, (4, 36, WIDTH))

    @jax.jit
    def both(params):
        masks, _ = page["rows_of"](page["draw_ijepa"], KEY, 1, 4)
        packed = lambda params: page["ijepa_loss"](params, teacher, patches, KEY, 1)  # noqa: E731
        alone = lambda params: loss_of_each_alone(  # noqa: E731
            params, teacher, patches, *map(flat, masks), jnp.square
        )
        return jax.value_and_grad(packed)(params), jax.value_and_grad(alone)(params)

    assert_close(*both(params))


def test_loss_and_gradients_of_vjepas_pair_are_those_of_each_clip_alone(page):
    params, teacher = model(72), model(72, seed=1)
    clips = jax.random.normal(KEY, (4, 72, WIDTH))

    @jax.jit
    def both(params):
        packed = lambda params: page["vjepa_loss"](params, teacher, clips, KEY, 1)  # noqa: E731

        def alone(params):
            losses = []
            for draw, key in zip(page["ranges"], jax.random.split(KEY), strict=True):
                context = flat(page["rows_of"](draw, key, 1, 4)[0])
                masks = context, ~context[:, None]
                losses.append(loss_of_each_alone(params, teacher, clips, *masks, jnp.abs))
            return (losses[0] + losses[1]) / 2

        return jax.value_and_grad(packed)(params), jax.value_and_grad(alone)(params)

    assert_close(*both(params))


def test_the_step_trains_and_its_arguments_can_be_donated(page, capsys):
    params = model(36)
    teacher = jax.tree.map(jnp.copy, params)
    patches, losses = jax.random.normal(KEY, (4, 36, WIDTH)), []
    for _ in range(6):
        params, teacher, loss = page["train_step"](params, teacher, patches, KEY, 0)
        losses.append(float(loss))
    assert capsys.readouterr().out == "compiling\n"
    assert losses[-1] < losses[0]
    assert all(jnp.abs(model(36)[name] - teacher[name]).max() > 0 for name in teacher)


# Pools


def numbered(key):
    """A context of any count, and a number that only this sample of this pool has."""
    number = jax.random.bits(key)
    return jnp.arange(20).reshape(4, 5) < (number % np.uint32(19)).astype(int), number


def pool_settings(page, **settings):
    page.update(dict(POOL=32, BATCH=4) | settings)
    return lambda step, samples: page["rows_of"](numbered, KEY, step, samples)


def test_devices_share_a_pool_as_steps_do_and_use_every_sample_once(page):
    rows_of = pool_settings(page)

    def sixteen_parts(devices):
        of_step = jax.jit(lambda step: rows_of(step, 4 * devices))
        steps = [of_step(step) for step in range(16 // devices)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *steps)

    (masks, numbers), keys = one = sixteen_parts(1)
    assert (masks.shape, numbers.shape, keys.shape) == ((32, 2, 4, 5), (32, 2), (32,))
    assert len(np.unique(numbers)) == 64  # two pools
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 32
    for devices in (8, 16):  # a pool in a step, and two pools
        for got, expected in zip(*map(jax.tree.leaves, (sixteen_parts(devices), one)), strict=True):
            assert (got == expected).all()
    for pool in (masks[:16], masks[16:]):  # is in balanced order
        assert np.ptp(pool.sum((1, 2, 3))) < np.ptp(pool.sum((2, 3))) / 2


@pytest.mark.slow
def test_a_sharded_batch_draws_its_pool_without_communication(page):
    rows_of = pool_settings(page)

    def start_of_step(step, patches):
        (context, _), keys = rows_of(step, len(patches))
        listed = lambda row, key: jm.token_indices(row, size=24, key=key, per_row=2)  # noqa: E731
        seen = jax.vmap(listed)(context, keys)
        return seen, jax.vmap(jm.take_tokens)(patches.reshape(-1, 40, 3), seen)

    patches = np.random.default_rng(0).normal(size=(32, 20, 3)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(patches, NamedSharding(mesh, P("data")))
    program = jax.jit(start_of_step).lower(jnp.int32(5), sharded).compile()
    assert not COLLECTIVE.search(program.as_text())
    expected = jax.jit(start_of_step)(5, patches)
    for one, other in zip(
        jax.tree.leaves(program(jnp.int32(5), sharded)), jax.tree.leaves(expected), strict=True
    ):
        assert one.sharding.shard_shape(one.shape)[0] == 2
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "samples"),
    [(dict(POOL=30), 4), (dict(POOL=256, BATCH=24), 24), (dict(POOL=30, BATCH=5), 5), ({}, 6)],
)
def test_pools_that_do_not_divide_are_refused(page, settings, samples):
    with pytest.raises(ValueError, match="PER_ROW must divide BATCH, and BATCH the pool"):
        pool_settings(page, **settings)(0, samples)


# Samples stay apart


def leak_of_the_last(queries, keys=None):
    """The first sample also attends to the last."""
    sample = queries.sample
    own = sample[:, None] == sample
    return own | ((sample[:, None] == 0) & (sample == queries.per_row - 1))


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, leak_of_the_last])
def test_the_test_to_paste_finds_what_leaks(page, broken, monkeypatch):
    page["params"] = model(36)
    context, targets = jax.vmap(page["draw_ijepa"])(jax.random.split(KEY, 3))
    arrays = *jax.random.normal(KEY, (2, 3, 36, WIDTH)), context, targets
    if broken is None:
        return page["check_rows"](page["loss_of_each_image"], *arrays)
    monkeypatch.setattr(jm, "attention_mask", broken)
    with pytest.raises(AssertionError, match="sample 0 differs in a row"):
        page["check_rows"](page["loss_of_each_image"], *arrays)
    return None


@pytest.mark.slow
def test_the_test_to_paste_changes_every_sample(page):
    """Losses that are right but for one sample that moves another."""
    patches = jnp.arange(12.0).reshape(3, 2, 2)

    def loss(patches):
        own = patches[:, 0].sum(-1) + 1
        moved = patches[-1] != jnp.arange(12.0).reshape(3, 2, 2)[-1]
        return own.at[0].add(jnp.where((len(patches) == 3) & moved.any(), 1.0, 0.0))

    with pytest.raises(AssertionError, match="sample 2 leaks"):
        page["check_rows"](loss, patches)


# What acts on a sample


def inline(pattern):
    (code,) = re.findall(pattern, TEXT)
    return code


@pytest.mark.slow
def test_drop_path_draws_for_each_sample():
    code = inline("`keep = (jax.random.bernoulli.*?)`").replace("0.9", "0.5")
    masks = jnp.ones((6, 4), bool).at[5, 3].set(False)
    seen = jm.token_indices(masks, size=24, per_row=6)
    keep = eval(code, dict(jax=jax, key=KEY, G=6, seen=seen))
    of_sample = [set(keep[seen.sample == sample].tolist()) for sample in range(6)]
    assert all(len(kept) == 1 for kept in of_sample)
    assert set.union(*of_sample) == {True, False}


def test_targets_of_samples_without_context_leave_the_loss():
    context = jnp.zeros((2, 3, 4), bool).at[1, 2, 3].set(True)
    target = eval(inline(r"`(target & context\.any.*?)`"), dict(target=~context, context=context))
    assert target.sum((1, 2)).tolist() == [0, 11]


@pytest.mark.slow
def test_a_bias_made_once_equals_the_mask():
    make = inline(r"`(jnp\.where\(mask, 0, .*?)`")
    mask = jnp.array([[True, False, True], [False, True, False], [True, True, True]])
    x, attend = jax.random.normal(KEY, (3, 2, 4), jnp.float16), jax.nn.dot_product_attention
    bias = eval(make, dict(jnp=jnp, mask=mask, dtype=x.dtype))[None].astype(x.dtype)
    np.testing.assert_array_equal(attend(x, x, x, bias=bias), attend(x, x, x, mask=mask[None]))


@pytest.mark.slow
def test_rope_turns_by_the_coordinates_of_an_entry_in_its_own_grid(page):
    grid, heads, depth = (3, 5), 2, 8
    row = jnp.ones((2, *grid), bool).at[0, 0].set(False)
    seen = jm.token_indices(row, size=28, per_row=2)
    x = np.random.default_rng(0).normal(size=(28, heads, depth)).astype(np.float32)
    turned = np.asarray(page["rope"](jnp.asarray(x), seen.place, grid))
    entries = [(height, width) for height in (1, 2) for width in range(5)]
    entries += [(height, width) for height in range(3) for width in range(5)]
    for got, was, (height, width) in zip(turned, x, entries, strict=False):
        angles = np.array([height, 0.1 * height, width, 0.1 * width])
        expected = (was[:, :4] + 1j * was[:, 4:]) * np.exp(1j * angles)
        np.testing.assert_allclose(got[:, :4] + 1j * got[:, 4:], expected, atol=1e-5)


@pytest.mark.slow
def test_class_tokens_stay_in_their_sample_and_are_never_dropped(page):
    params = model(36) | {"class": jnp.full(WIDTH, 9.0)}
    patches = jax.random.normal(KEY, (3, 36, WIDTH))
    context = jax.random.bernoulli(KEY, 0.5, (3, *IMAGE))
    encode = page["encode_with_class"]
    together = jax.jit(encode, static_argnums=3)(params, patches, context, 108, KEY)
    of_one = lambda *one: encode(params, *(x[None] for x in one), 37, KEY)  # noqa: E731
    alone = jax.jit(jax.vmap(of_one))(patches, context)
    assert_close(together, flat(alone))

    @jax.jit
    def tokens_of_a_short_row(patches):
        inputs = []
        page["attend"] = lambda weights, x, mask: inputs.append(x) or x
        encode(params, patches, jnp.ones((3, *IMAGE), bool), 12, KEY)
        return inputs[0]

    tokens = np.asarray(tokens_of_a_short_row(patches))
    assert (tokens == 9).all(-1).sum() == 3
    assert (tokens != 0).any(-1).sum() == 12


@pytest.mark.slow
def test_images_of_mixed_shapes_keep_their_masks_and_their_outputs(page):
    sides = np.array([[8, 9], [32, 32], [5, 30], [20, 14], [16, 16], [31, 7], [12, 28], [3, 3]])
    numbers = np.arange(8)  # the number of its image stands in every patch
    patches = jnp.asarray(numbers[:, None, None] + np.zeros((8, 1024, 1), int))
    rows_of = jax.jit(page["rows_of_any_shape"])
    context, patches, sides_of_row = rows_of(KEY, patches, jnp.array(sides))
    assert context.shape == (2, 4, 32, 32)
    image = np.asarray(patches[:, :, 0, 0])
    assert sorted(image.ravel()) == numbers.tolist()
    np.testing.assert_array_equal(sides_of_row, sides[image])
    for row, place in np.ndindex(2, 4):
        height, width = sides[image[row, place]]
        own = np.asarray(context[row, place])
        assert own.sum() == own[:height, :width].sum()
        assert own.sum() == height * width - round(0.75 * height * width)
    for row in range(2):  # The list of a row takes each token from its own image.
        seen = jm.token_indices(context[row], size=640, per_row=4)
        taken = jm.take_tokens(patches[row].reshape(-1, 1), seen, fill=-1)[:, 0]
        np.testing.assert_array_equal(taken, np.append(image[row], -1)[seen.sample])
