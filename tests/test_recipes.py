"""The page of recipes: it is short, its Python runs and prints what it says, its promises hold.

Every recipe is drawn with many keys at once. The values that users of other code got wrong are in
`TestRightValues`, which runs the functions of the page and none of its examples.

Also the part of the page on models that needs JAX alone; tests/interop runs that page as a whole.
"""

import ast
import contextlib
import functools
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import run_two_processes

import jepa_masks_jax as jm

PAGE = Path(__file__).parents[1] / ".github" / "RECIPES.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text()
pytestmark = pytest.mark.usefixtures("users_promotion")

BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
RECIPE = re.compile(r"^### (.+)\n(.+)\n```py(thon)?\n((?:.*\n)*?)```\n(.+)\n", re.M)
RECIPES = {name: (when, code, holds) for name, when, _, code, holds in RECIPE.findall(TEXT)}
LONG = {"Data workers": 30, "T5 and UL2": 26, "V-JEPA": 14, "Sizes and strategies of their own": 14}
MODELS = PAGE.with_name("MODELS.md").read_text()
JAX_ALONE = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", MODELS, re.M | re.S)
    if not re.search("import .*(equinox|haiku|keras|torch)|from (flax|equimo)", block)
]
MANY_KEYS = jax.random.split(jax.random.key(7), 500)


def draw_many(function, *args):
    """What a recipe gives for 500 keys, in one program."""
    drawn = jax.jit(jax.vmap(function, (0, *[None] * len(args))))(MANY_KEYS, *args)
    return jax.tree.map(np.asarray, drawn)


def counts_of(masks):
    return masks.reshape(len(masks), -1).sum(1)


def in_words(recipe, start):
    """The code within the sentences of a recipe that begins as given."""
    _, _, holds = RECIPES[recipe]
    (code,) = [code for code in re.findall("`(.*?)`", holds) if code.startswith(start)]
    return code


@pytest.fixture(scope="module")
def functions():
    """The functions of the page and their static settings, without the examples."""

    def is_needed(node):
        if isinstance(node, ast.Assign):
            return not any(isinstance(part, ast.Call) for part in ast.walk(node.value))
        return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)

    known = {}
    for block in BLOCKS:
        nodes = [node for node in ast.parse(block).body if is_needed(node)]
        with contextlib.suppress(NameError):  # an example that names another example
            exec(compile(ast.Module(nodes, []), "page", "exec"), known)
    return known


@pytest.fixture(scope="module")
def page():
    """The names that the page defines; under `after`, the names once each block has run."""
    known, after, output = {}, {}, io.StringIO()
    with contextlib.redirect_stdout(output):
        for block in BLOCKS:
            exec(block, known)
            after[block] = dict(known)
    recipes = {name: after[code] for name, (_, code, _) in RECIPES.items() if code in after}
    return known | {"after": recipes, "printed": output.getvalue().splitlines()}


@pytest.fixture(scope="module")
def models():
    """The names that the page on models defines, and what it prints under `printed`."""
    known, output = {}, io.StringIO()
    with contextlib.redirect_stdout(output):
        exec("".join(JAX_ALONE), known)
    return known | {"printed": output.getvalue().splitlines()}


def anchors(titles):
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_recipe_is_short_and_says_what_holds():
    assert len(TEXT.splitlines()) <= 480
    assert list(RECIPES) == re.findall(r"^### (.*)$", TEXT, re.M)
    for name, (when, code, holds) in RECIPES.items():
        assert when.endswith("."), name
        assert re.match(r"\*\*Holds:\*\* .*\. \*\*Beware:\*\* .*\.$", holds), name
        assert "print(" in code, name
        assert len(code.splitlines()) <= LONG.get(name, 13), name
    assert all(len(line) <= 110 for block in BLOCKS for line in block.splitlines())


def test_the_index_has_every_recipe_and_no_other():
    index, linked = TEXT.split("## Steps")[0], re.findall(r"\]\(#(.*?)\)", TEXT)
    assert set(re.findall(r"\]\(#(.*?)\)", index)) == set(linked) == anchors(RECIPES)
    for file, anchor in re.findall(r"\]\(([\w./]+)#(.*?)\)", TEXT):
        assert anchor in anchors(re.findall(r"^#+ (.*)$", (PAGE.parent / file).read_text(), re.M))


def test_no_recipe_multiplies_an_error_by_what_is_valid_or_divides_an_index():
    assert not re.search(r"\* ?\w*\.?valid|indices ?(//|%)", TEXT)


@pytest.mark.slow
def test_blocks_print_what_their_comments_say(page):
    comments = re.findall(r"^print\(.*\)  # (.*)$", "".join(BLOCKS), re.M)
    assert len(comments) == "".join(BLOCKS).count("print(")
    assert page["printed"] == comments


class TestRightValues:
    """Small inputs on which code of other projects went wrong."""

    def shortened(self, functions, ids, masked, document=None):
        ids = jnp.array(ids)
        document = (ids > 0).astype(int) if document is None else jnp.array(document)
        split = jax.jit(functions["with_sentinels"])
        inputs, labels = split(ids, jnp.array(masked, bool), document)
        return inputs.tolist(), labels.tolist()

    def test_t5_on_a_text_that_does_not_fill_its_list(self, functions):
        ids, masked = [11, 12, 13, 14, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]
        inputs, labels = self.shortened(functions, ids, masked)
        assert inputs == [11, 12, 32099, 0, 0, 0, 0, 0]
        assert labels == [32099, 13, 14, 0, 0, 0, 0, 0]
        other_padding = [*ids[:4], 9, 9, 9, 9], masked, [1, 1, 1, 1, 0, 0, 0, 0]
        assert self.shortened(functions, *other_padding) == (inputs, labels)

    def test_t5_pads_after_the_last_span(self, functions):
        _, labels = self.shortened(functions, range(11, 19), [0, 0, 1, 1, 0, 0, 0, 1])
        assert labels == [32099, 13, 14, 32098, 18, 0, 0, 0]

    def test_spans_of_neighbouring_documents_have_a_sentinel_each(self, functions):
        inputs, labels = self.shortened(functions, [11, 12, 13, 14], [0, 1, 1, 0], [1, 1, 2, 2])
        assert inputs == [11, 32099, 32098, 14]
        assert labels == [32099, 12, 32098, 13]

    def test_the_end_of_a_text_is_in_its_inputs_and_labels(self, functions):
        ids, masked = [11, 12, 1, 13, 14, 1, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]
        inputs, labels = self.shortened(functions, ids, masked, [1, 1, 1, 2, 2, 2, 0, 0])
        assert inputs == [32099, 12, 1, 13, 32098, 1, 0, 0]
        assert labels == [32099, 11, 1, 32098, 14, 1, 0, 0]

    def test_documents_from_one_with_padding_zero(self, functions):
        """Grain's packer: ids of documents begin with 1, and 0 is padding."""
        document = jnp.array([1] * 20 + [2] * 20 + [0] * 20)
        draw = functools.partial(functions["of_document"], document=document, ratio=0.2)
        tokens, spans = jax.vmap(lambda key, i: draw(key, i=i))(MANY_KEYS[:2], jnp.array([1, 2]))
        assert tokens.reshape(2, 3, 20).sum(2).tolist() == [[4, 0, 0], [0, 4, 0]]
        assert not spans[:, 40:].any()

    def test_samples_of_a_row_as_ids_from_one(self):
        seen = jm.token_indices(jnp.eye(2, dtype=bool), size=4, per_row=2)
        ids = eval(in_words("Packed documents", "(seen.sample"), {"seen": seen})
        assert ids.tolist() == [1, 2, 0, 0]

    def test_diffusion_masks_a_ratio_of_the_real_tokens(self, functions):
        """100 of 512 are real: with 512 * t all would be masked from t = 0.2 on."""
        real = jnp.stack([jnp.arange(512) < 100] * 4)
        mask, rest = jax.jit(functions["diffusion"])(jax.random.key(1), real)
        ratio_key, _ = jax.random.split(jax.random.key(1))
        t = (np.asarray(jax.random.uniform(ratio_key)) + np.arange(4) / 4) % 1
        assert mask.sum(1).tolist() == np.rint(100 * t).tolist()
        np.testing.assert_array_equal(mask ^ rest, real)

    def test_variance_of_a_padded_list(self, functions):
        at = jm.token_indices(jnp.array([True, True, False, False]), size=4)
        x = jnp.array([[2.0], [4.0], [0.0], [0.0]])
        assert (x.mean(), x.var()) == (1.5, 2.75)  # with the padding; without: 3 and 1
        normed = functions["instance_norm"](x, at)
        np.testing.assert_allclose(normed[:, 0], [-1, 1, -3, -3], rtol=1e-4)

    def test_cross_entropy_of_a_padded_list(self):
        optax = pytest.importorskip("optax")
        code = in_words("Cosine loss", "jnp.mean(optax.softmax")
        at = jm.token_indices(jnp.array([True, False]), size=2)
        labels = {
            fill: jm.take_tokens(jnp.array([1, 0])[:, None], at, fill=fill)[:, 0]
            for fill in (0, -100)
        }

        def loss(logits, labels):
            names = {"jnp": jnp, "optax": optax, "at": at, "logits": logits, "labels": labels}
            return eval(code, names)

        logits, both = jnp.array([[0.0, 1.0], [0.0, 1.0]]), jax.jit(jax.value_and_grad(loss))
        for of_fill in labels.values():
            value, slope = both(logits, of_fill)
            np.testing.assert_allclose(value, 0.313262, atol=1e-6)
            assert jnp.isfinite(slope).all()

    @pytest.mark.parametrize(("side", "factor"), [(16, 1), (24, 1), (32, 2**0.5)])
    def test_weights_of_vjepa21(self, functions, side, factor):
        """Its code divides the distance by `side // 16` where its option is on."""
        target = jnp.zeros((side, side), bool).at[0, 0].set(True)
        weights = functions["context_weights"](target)
        y, x = np.indices((side, side))
        distance = np.maximum(np.sqrt(y**2 + x**2), 1)
        np.testing.assert_allclose(weights, distance**-0.5, rtol=1e-6)
        offset = functions["context_weights"](target, unit=side // 16)
        np.testing.assert_allclose(offset, weights * factor, rtol=1e-6)

    def test_audiomae_keeps_twelve(self, functions):
        kept = ~functions["two_axes"](jax.random.key(3))
        assert kept.sum() == int(64 * 0.2) * int(8 * 0.2) == 12
        assert (kept.any(1).sum(), kept.any(0).sum()) == (12, 1)

    def test_an_odd_last_batch_is_filled_up_with_masks_of_nothing(self):
        context = jax.vmap(lambda key: jm.presets.mae(key, (14, 14)))(MANY_KEYS[:3])
        filled = eval(in_words("Rows", "jnp.pad"), {"jnp": jnp, "context": context})
        rows = jm.in_rows(jax.random.key(0), filled, per_row=2)
        assert sorted(np.asarray(rows.sum((2, 3))).ravel()) == [0, 147, 147, 147]
        listed = jax.vmap(lambda row: jm.token_indices(row, size=294, per_row=2))(rows)
        assert listed.valid.sum() == 3 * 147

    def test_tread_lets_98_tokens_pass_and_98_be(self, functions):
        x = jax.random.normal(jax.random.key(0), (196, 8))
        routed = functions["routed"](x, jax.random.key(1), lambda x: x + 1)
        moved = (routed != x).all(1)
        assert moved.sum() == 98
        np.testing.assert_array_equal(routed, np.where(moved[:, None], x + 1, x))


@pytest.mark.slow
class TestSteps:
    def test_mae_is_the_error_of_the_tokens_that_are_not_seen(self, page):
        key, patches = page["keys"][0], np.asarray(page["patches"][3])
        position, attend = np.asarray(page["params"]["position"]), page["attend"]
        target = np.asarray(jm.presets.mae(key, (14, 14))).ravel()
        tokens = np.ones((196, 32), np.float32)
        seen = (patches + position)[~target]
        tokens[~target] = attend(jnp.eye(32), seen, jnp.ones(49, bool))
        decoded = attend(jnp.eye(32), tokens + position, jnp.ones(196, bool))
        expected = np.mean((decoded - patches)[target] ** 2)
        loss = page["mae_loss"](page["params"], patches, key)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def test_a_part_of_the_target_has_no_visible_token(self):
        code = in_words("MAE", "jm.random_mask")

        def both(key):
            mask_key, key = jax.random.split(key)
            target = jm.presets.mae(mask_key, (14, 14))
            names = {"jm": jm, "key": key, "grid": (14, 14), "target": target}
            return target, eval(code, names)

        target, part = draw_many(both)
        assert set(counts_of(target)) == {147}
        assert set(counts_of(part)) == {49}
        assert not (part & ~target).any()

    def test_ijepa_reads_the_context_alone(self, page):
        for key in page["keys"][:2]:
            options = page["params"], page["patches"][1]
            moved = jax.grad(page["ijepa_loss"], argnums=2)(*options, page["patches"][0], key)
            mask_key, index_key = jax.random.split(key)
            context = jm.presets.ijepa(mask_key, (14, 14)).context
            listed = jm.clip_count(index_key, context, maximum=131).reshape(-1)
            np.testing.assert_array_equal(jnp.abs(moved).sum(1) > 0, listed)

    def test_lists_of_ijepa_lose_what_the_page_says(self):
        draw = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)))
        context, targets = draw(jax.random.split(jax.random.key(8), 20_000))
        statistics = jm.mask_statistics(context)
        assert f"{statistics.dropped(131):.1%} {statistics.computed(131):.2f}" == "0.1% 1.45"
        assert not (context & targets.any(1)).any()
        assert targets.sum((2, 3)).max() == 42 == jm.ijepa_counts((14, 14)).target_max
        rows = jm.in_rows(jax.random.key(9), context[: 78 * 256], per_row=2)
        assert counts_of(np.asarray(rows).reshape(-1, 392)).mean() * 1.05 < 217

    def test_lists_and_rows_of_vjepa_lose_what_the_page_says(self, page):
        """Its masks are those of one frame, eight times."""
        keys = jax.random.split(jax.random.key(8), 20_000)
        groups = jax.random.split(jax.random.key(9), 40)
        both = (jm.presets.vjepa_short_range, jm.presets.vjepa_long_range)
        said = (872, 384, 1.5, 35, 1.05), (528, 112, 1.8, 62, 1.11)
        for preset, (size, short, computed, lost, of_rows) in zip(both, said, strict=True):
            target = jax.vmap(lambda key, preset=preset: preset(key, (14, 14)))(keys)
            frames = jnp.repeat(~target[:, None], 8, axis=1)
            statistics = jm.mask_statistics(frames)
            assert statistics.dropped(size) <= 0.001
            assert abs(statistics.computed(size) - computed) < 0.05
            assert abs(100 * statistics.dropped(short) - lost) < 1
            counts = jnp.asarray(statistics.counts[: 40 * 256].reshape(40, 256), jnp.int32)
            order = jax.vmap(functools.partial(jm.balanced_order, per_row=2))(groups, counts)
            totals = np.take_along_axis(np.asarray(counts), np.asarray(order), 1).reshape(-1, 2)
            totals = totals.sum(1)
            row = np.quantile(totals, 0.99, method="inverted_cdf")
            assert abs(row / np.minimum(totals, row).mean() - of_rows) < 0.01

    def test_targets_of_vjepa_are_the_same_in_all_frames(self, page):
        (seen, short), (few_seen, long) = draw_many(page["pair"])
        for listed, target in ((seen, short), (few_seen, long)):
            assert (target == target[:, :1]).all()
            valid, indices = listed.valid, listed.indices
            kept = np.minimum((~target).sum((1, 2, 3)), valid.shape[1])
            np.testing.assert_array_equal(valid.sum(1), kept)
            flat = np.pad(target.reshape(500, -1), ((0, 0), (0, 1)))
            assert not np.take_along_axis(flat, indices, 1).any()

    def test_dino_lists_the_masked_tokens_of_the_batch(self, page):
        page = page["after"]["DINOv2 and DINOv3"]
        masks = np.asarray(jax.vmap(page["crop"])(page["keys"], page["shuffled"]))
        np.testing.assert_array_equal(page["packed"].indices, np.flatnonzero(masks))
        tokens = np.asarray(page["patches"]).reshape(8 * 196, 32)
        np.testing.assert_array_equal(page["masked"], tokens[masks.ravel()])
        counts = masks.sum((1, 2))
        assert sorted(counts) == [0, 0, 0, 0, 39, 58, 78, 98]
        crop, _, _ = np.nonzero(masks)
        np.testing.assert_allclose(page["weights"], 1 / counts[crop] / 4, rtol=1e-6)
        of_crops = masks.sum((1, 2)) / np.maximum(counts, 1)  # errors of 1: the loss is 1
        pairs = of_crops.reshape(4, 2)  # and means of two crops each have another mean
        assert pairs.sum() / 4 == 1
        assert np.mean(pairs.sum(1) / np.maximum((pairs > 0).sum(1), 1)) < 1

    def test_rows_give_each_sample_what_it_gets_alone(self, page):
        contexts, patches, keys = page["rows"], page["patches"], page["keys"][:4]
        features = jax.vmap(page["row_features"])(contexts, patches.reshape(4, 2, 196, 32), keys)
        features = np.asarray(features).reshape(8, 196, 32)
        attend, own = page["attend"], np.asarray(contexts).reshape(8, 196)
        placed = np.asarray(patches + page["params"]["position"])
        for tokens, context, outputs in zip(placed, own, features, strict=True):
            kept = outputs.any(1)  # a row that is too long drops tokens of its samples
            assert not (kept & ~context).any()
            alone = attend(jnp.eye(32), tokens[kept], jnp.ones(kept.sum(), bool))
            np.testing.assert_allclose(outputs[kept], alone, atol=1e-5)

    def test_rows_hold_every_mask_once_and_few_are_too_long(self, page):
        def of_batch(key):
            contexts = jax.vmap(page["draw"])(jax.random.split(key, 8))
            return contexts, jm.in_rows(key, contexts, per_row=2)

        contexts, rows = draw_many(of_batch)
        batches = zip(contexts, rows.reshape(500, 8, 14, 14), strict=True)
        for before, after in batches:
            assert sorted(m.tobytes() for m in before) == sorted(m.tobytes() for m in after)
        # 2,000 rows at the 99 % quantile; five standard errors are 1.1 %.
        assert (rows.sum((2, 3, 4)) > page["size"]).mean() < 0.021
        code = in_words("Rows", "jm.in_rows")
        names = page | {"context": contexts[0], "patches": page["patches"]}
        moved, patches = eval(code, names)
        pairs = {
            (m.tobytes(), x.tobytes()) for m, x in zip(contexts[0], names["patches"], strict=True)
        }
        moved, patches = (np.asarray(x).reshape(8, *x.shape[2:]) for x in (moved, patches))
        assert pairs == {(m.tobytes(), x.tobytes()) for m, x in zip(moved, patches, strict=True)}

    def test_the_lengths_of_rows_are_those_of_the_page(self):
        _, _, words = RECIPES["Rows"]
        small, large = map(int, re.search(r"8 images need (\d+).*256 only (\d+)", words).groups())

        def draw(key):
            return jm.presets.ijepa(key, (14, 14)).context

        assert jm.list_size(draw, per_row=2, group=8) == small
        assert jm.list_size(draw, per_row=2, group=256) == large

    def test_cosine_loss_is_that_of_the_valid_tokens(self, page):
        """Whatever stands at the padding."""

        def both(key):
            keys = jax.random.split(key, 4)
            predicted, goal = (jax.random.normal(key, (8, 4)) for key in keys[:2])
            mask = jm.random_mask(keys[2], (8,), num_masked=(1, 6))
            at = jm.token_indices(mask, size=6)
            predicted = jnp.where(at.valid[:, None], jm.take_tokens(predicted, at), 7.0)
            return (
                predicted,
                jm.take_tokens(goal, at),
                at.valid,
                page["cosine_loss"](predicted, goal, at),
            )

        for predicted, goal, valid, loss in zip(*draw_many(both), strict=True):
            a, b = predicted[valid], goal[valid]
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            np.testing.assert_allclose(loss, np.mean(1 - (a * b).sum(1) / norms), atol=1e-5)

    def test_cosine_loss_and_its_gradients_meet_no_nan(self, page):
        """Not even one that is masked afterwards; predictions at the padding may be zero."""
        predicted = jm.take_tokens(page["patches"][0, :4], page["at"])
        slope = jax.grad(page["cosine_loss"], argnums=(0, 1))
        with jax.debug_nans(True):
            for slopes in slope(predicted, page["patches"][1, :4], page["at"]):
                assert jnp.isfinite(slopes).all()

    @pytest.mark.parametrize("fill", [0, 1])
    def test_zeros_at_the_padding_make_the_gradients_of_a_cosine_nan(self, fill):
        at = jm.token_indices(jnp.array([True, False]), size=2)

        def loss(w):
            taken = jm.take_tokens(jnp.ones((2, 3)), at, fill=fill) * w
            unit = taken / jnp.linalg.norm(taken, axis=-1, keepdims=True)
            return jnp.mean(1 - unit[:, 0], where=at.valid)

        slope = jax.grad(loss)(2.0)
        assert abs(slope) < 1e-6 if fill else jnp.isnan(slope)

    def test_accumulated_loss_is_not_a_mean_of_means(self, page):
        errors, keys = page["patches"].max(-1), page["keys"]
        whole = page["batch_loss"](errors, keys, 4)
        halves = [page["batch_loss"](errors[i : i + 1], keys[i : i + 1], 1) for i in range(8)]
        targets = np.asarray(jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).targets)(keys))
        targets = targets.reshape(8, 4, 196)
        expected = (np.asarray(errors)[:, None] * targets).sum() / targets.sum()
        np.testing.assert_allclose(whole, expected, rtol=1e-5)
        assert abs(np.mean(halves) - expected) > 1e-4

    def test_one_key_for_every_device_draws_one_mask(self, page):
        P, mesh = page["P"], page["mesh"]

        def draw(keys):
            return jax.vmap(lambda key: jm.presets.mae(key, (14, 14)))(keys)

        mapped = jax.shard_map(draw, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        assert len({mask.tobytes() for mask in np.asarray(mapped(page["keys"]))}) == 8
        one = jax.random.split(page["key"], 1)
        replicated = jax.shard_map(draw, mesh=mesh, in_specs=P(), out_specs=P("data"))
        masks = np.asarray(replicated(one))
        assert len(masks) == len(mesh.devices) > 1
        assert len({mask.tobytes() for mask in masks}) == 1

    def test_devices_draw_the_masks_of_one(self, page):
        page = page["after"]["Several devices"]
        assert len(page["masks"].sharding.device_set) == 8
        step_key = jax.random.fold_in(page["key"], 1000)
        draw = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).context)
        expected = draw(jax.random.split(step_key, 256))
        np.testing.assert_array_equal(page["masks"], expected)
        code = in_words("Several devices", "jax.random.split").replace("jax.process_index()", "1")
        mine = draw(eval(code, {"jax": jax, "key": step_key, "hosts": 2}))
        np.testing.assert_array_equal(mine, expected[128:])

    def test_several_devices_runs_on_two_processes(self, tmp_path):
        _, code, _ = RECIPES["Several devices"]
        start = (
            "import jax, sys\njax.config.update('jax_num_cpu_devices', 1)\n"
            "jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))\n"
            "assert jax.process_count() == jax.device_count() == 2\n"
        )
        script = tmp_path / "two.py"
        script.write_text(start + BLOCKS[0] + code)
        for printed in run_two_processes(script, tmp_path):
            assert printed.split()[-1] == code.split()[-1]  # the sum over both

    def test_rotary_positions_are_those_of_the_full_grid(self, page):
        places = jnp.stack(jnp.unravel_index(jnp.arange(196), (14, 14)), -1)

        def both(key):
            keys = jax.random.split(key, 3)
            x, y = jax.random.normal(keys[0], (2, 196, 8))
            kept = jm.token_indices(jm.random_mask(keys[1], (14, 14), num_masked=49), size=49)
            of_kept = jnp.stack(jnp.unravel_index(kept.place, (14, 14)), -1)
            turned = page["rope"](jm.take_tokens(x, kept), of_kept)
            offset = jax.random.randint(keys[2], (2,), 0, 50)
            dots = [
                jnp.einsum("qd,kd->qk", page["rope"](x[:9], p[:9]), page["rope"](y[:9], p[-9:]))
                for p in (places, places + offset)
            ]
            return turned, jm.take_tokens(page["rope"](x, places), kept), dots

        turned, expected, (dots, moved) = draw_many(both)
        np.testing.assert_allclose(turned, expected, atol=1e-5)
        np.testing.assert_allclose(dots, moved, atol=1e-3)
        assert np.abs(np.diff(dots, axis=1)).max() > 1

    def test_every_stage_has_the_units_of_the_coarsest(self, page):
        fine = in_words("Hierarchical backbones", "jm.random_mask")
        stages = draw_many(page["stages"])
        units = stages[-1]
        assert set(counts_of(units)) == {29}
        for n, mask in zip((8, 4, 2), stages, strict=False):
            np.testing.assert_array_equal(mask, np.kron(units, np.ones((n, n), bool)))
        cells = draw_many(lambda key: eval(fine, {"jm": jm, "key": key}))
        np.testing.assert_array_equal(stages[0], cells)

    def test_units_of_a_foreground_are_filled_by_it(self, page):
        code = in_words("Hierarchical backbones", "among=foreground").partition("=")[2]
        full = eval(code, page)
        masks = draw_many(page["stages"], full)[2]
        assert not (masks & ~np.asarray(page["foreground"])).any()
        assert set(counts_of(masks)) == {48}  # 60 % of 20 full units of 2x2


@pytest.mark.slow
class TestData:
    SIDES = ((14, 14), (9, 25), (32, 8), (8, 12), (32, 3))

    def test_speech_has_the_spans_of_its_own_length(self, page):
        lengths = jnp.arange(2, 201)
        lengths = jnp.concatenate([lengths, lengths, lengths])[:500]
        context, target = jax.jit(jax.vmap(page["speech"]))(MANY_KEYS, lengths)
        real = np.arange(200) < np.asarray(lengths)[:, None]
        np.testing.assert_array_equal(context ^ target, real)
        assert context.any(1).all()
        assert target.any(1).all()
        alone = jm.presets.wav2vec2(MANY_KEYS[73], (75,))
        np.testing.assert_array_equal(target[73], np.pad(alone, (0, 125)))

    def test_f5_masks_one_span_of_each_utterance(self):
        code = in_words("Speech", "jm.random_span_mask")
        lengths = jnp.tile(jnp.array([200, 75, 30, 11]), 125)

        def draw(key, length):
            return eval(code, {"jm": jm, "key": key, "length": length})

        masks = np.asarray(jax.jit(jax.vmap(draw))(MANY_KEYS, lengths)).astype(int)
        assert ((np.diff(masks, prepend=0) == 1).sum(1) == 1).all()
        ratio = masks.sum(1) / np.asarray(lengths)
        assert (abs(ratio - 0.825) <= 0.125 + 0.5 / np.asarray(lengths)).all()
        assert not masks[np.arange(200) >= np.asarray(lengths)[:, None]].any()

    def test_wavjepa_masks_are_disjoint(self, page):
        code = in_words("Speech", "jm.clip_count")

        def topped_up(key):
            context, targets = page["wavjepa"](key)
            names = page | {"key": key, "context": context, "targets": targets}
            return context, targets, eval(code, names)

        context, targets, more = draw_many(topped_up)
        assert not ((context | more) & targets.any(1)).any()
        assert targets.any(2).all()
        free = (~targets.any(1)).sum(1)
        np.testing.assert_array_equal(more.sum(1), np.maximum(context.sum(1), np.minimum(free, 10)))

    def test_spectrograms_have_exact_counts(self, page):
        kept = ~draw_many(page["two_axes"])
        assert (kept.any(2).sum(1) == 12).all()
        assert (kept.any(1).sum(1) == 1).all()
        assert set(counts_of(kept)) == {12}
        assert set(counts_of(draw_many(page["strips"]))) == {205}
        rounded = [jm.random_mask(page["key"], (n,), mask_ratio=0.8).sum() for n in (64, 8)]
        assert (64 - rounded[0]) * (8 - rounded[1]) == 26

    def test_padded_shapes_have_contexts_of_real_tokens_outside_the_targets(self, page):
        sides = jnp.array(self.SIDES * 100)
        context, targets = jax.jit(jax.vmap(page["padded"]))(MANY_KEYS, sides)
        free = jax.vmap(lambda sides: jm.inside((32, 32), sides))(sides) & ~targets.any(1)
        assert not (context & ~free).any()
        np.testing.assert_array_equal(
            context.sum((1, 2)), np.minimum(np.asarray(free).sum((1, 2)), 90)
        )

    def test_blocks_on_a_samples_own_size_have_exact_counts(self, page):
        sides = np.array([*self.SIDES, (3, 5)] * 84)[:500]
        masks = jax.jit(jax.vmap(page["own_size"]))(MANY_KEYS, jnp.asarray(sides))
        np.testing.assert_array_equal(masks.sum((1, 2)), 3 * sides.prod(1) // 10)
        outside = (np.indices((32, 32))[:, None] >= sides.T[..., None, None]).any(0)
        assert not (masks & outside).any()

    def test_packed_patches_are_those_of_a_grid_of_their_own(self, page):
        sides = jnp.array(self.SIDES * 100)
        drawn = jax.jit(jax.vmap(page["packed_patches"]))(MANY_KEYS, sides)
        for i, own in enumerate(self.SIDES):
            context, targets, coordinates = (x[i] for x in drawn)
            alone, count = jm.presets.ijepa(MANY_KEYS[i], own), own[0] * own[1]
            np.testing.assert_array_equal(context[:count], alone.context.reshape(-1))
            np.testing.assert_array_equal(targets[:, :count], alone.targets.reshape(4, -1))
            places = np.stack(np.indices(own), -1).reshape(-1, 2)
            np.testing.assert_array_equal(coordinates[:count], places)
        context, targets, _ = drawn
        padding = np.arange(256) >= sides.prod(1)[:, None]
        assert not (context & padding).any()
        assert not (targets & padding[:, None]).any()
        assert not (context & targets.any(1)).any()

    def test_a_full_grid_does_not_bound_the_samples_in_it(self):
        one = {"num_targets": 1, "target_scale": (0.4, 0.4), "target_aspect_ratio": (3, 3)}
        assert jm.ijepa_counts((14, 14), **one).target_max == 70
        assert jm.ijepa_counts((13, 14), **one).target_max == 78
        shapes = [(h, w) for h in range(1, 33) for w in range(1, 33) if 2 <= h * w <= 256]
        assert max(jm.ijepa_counts(shape).target_max for shape in shapes) == 56

    def test_clips_are_those_of_their_own_length(self, page):
        frames = jnp.tile(jnp.arange(2, 9), 72)[:500]
        masks = np.asarray(jax.jit(jax.vmap(page["clip_target"]))(MANY_KEYS, frames))
        real = np.arange(8) < np.asarray(frames)[:, None]
        np.testing.assert_array_equal(masks, masks[:, :1] & real[..., None, None])
        alone = jm.presets.vjepa_long_range(MANY_KEYS[3], (5, 14, 14))
        np.testing.assert_array_equal(masks[3, :5], alone)

    def test_future_is_whole_frames(self, page):
        masks = draw_many(page["future"])
        frames = masks.any((2, 3))
        np.testing.assert_array_equal(frames, masks.all((2, 3)))
        assert (np.diff(frames.astype(int), axis=1) >= 0).all()
        assert set(frames.sum(1)) == {2, 3, 4, 5, 6}

    def test_documents_have_their_own_masks(self, page):
        document = jnp.array([1] * 40 + [2] * 60 + [3] * 20 + [0] * 8)
        which = jnp.tile(jnp.arange(1, 5), 125)
        draw = jax.jit(jax.vmap(page["of_document"], (0, None, 0)))
        tokens, spans = (np.asarray(x) for x in draw(MANY_KEYS, document, which))
        mine = np.asarray(document) == np.asarray(which)[:, None]
        assert not ((tokens | spans) & ~mine).any()
        np.testing.assert_array_equal(tokens.sum(1), np.tile([6, 9, 3, 0], 125))
        for i, (start, stop) in enumerate(((0, 40), (40, 100), (100, 120))):
            alone = jm.span_mask(MANY_KEYS[i], (stop - start,), mask_ratio=0.3, span=4)
            np.testing.assert_array_equal(spans[i, start:stop], alone)

    def test_foreground_is_never_left(self, page):
        masks = draw_many(page["blocks"])
        assert not (masks & ~np.asarray(page["foreground"])).any()
        assert set(counts_of(masks)) == {40}
        line = page["after"]["Foreground and missing data"]["of_bands"]
        assert (line == line[0]).all()

    def test_groups_are_masked_as_a_whole(self, page):
        word = np.asarray(page["word"])
        groups, tokens = draw_many(page["of_groups"]), draw_many(page["of_tokens"])
        for masks in (groups, tokens):
            whole = [set(np.unique(masks[:, word == w].mean(1))) <= {0, 1} for w in range(5)]
            assert all(whole)
        first = np.unique(word, return_index=True)[1]
        assert (groups[:, first].sum(1) == 2).all()
        assert tokens.sum(1).max() == 4
        assert (tokens[:, first].mean(0) > 0.1).all()


def decoded(inputs, labels):
    """The text that T5's inputs and labels describe, the count of its sentinels, its ends."""
    spans, current, ends = {}, None, 0
    for token in labels[labels > 0].tolist():
        if token >= 32_000:
            assert token == 32_099 - len(spans)
            spans[token] = current = []
        elif token == 1:
            current, ends = None, ends + 1
        else:
            current.append(token)
    assert all(spans.values())
    kept = inputs[inputs > 0].tolist()
    assert [token for token in kept if token >= 32_000] == list(spans)
    return [word for token in kept for word in spans.get(token, [token])], len(spans), ends


@pytest.mark.slow
class TestTexts:
    def texts(self):
        """One text of 3 to 64 words, and a second one where there is room for three words."""
        ids, document = np.zeros((2, 500, 66), int)
        for i in range(500):
            length = 3 + i % 62
            ids[i, : length + 1] = [*range(2, 2 + length), 1]
            document[i, : length + 1] = 1
            if (other := 66 - (length + 1) - i % 3 - 1) >= 3:
                ids[i, length + 1 : length + other + 2] = [*range(1000, 1000 + other), 1]
                document[i, length + 1 : length + other + 2] = 2
        return ids, document

    @pytest.mark.parametrize("name", ["t5", "ul2", "free"])
    def test_t5_splits_texts_into_what_is_left_and_what_is_missing(self, page, name):
        ids, document = self.texts()
        strategy = {
            "t5": jm.presets.t5,
            "ul2": page["ul2"],
            "free": functools.partial(jm.presets.t5, ends="free"),
        }[name]
        t5 = jax.jit(jax.vmap(functools.partial(page["t5"], strategy=strategy)))
        inputs, labels = (np.asarray(x) for x in t5(MANY_KEYS, ids, document))
        assert inputs.shape == labels.shape == ids.shape
        for i in range(500):
            text, spans, ends = decoded(inputs[i], labels[i])
            assert text == ids[i][ids[i] > 0].tolist()
            assert ends == len(set(document[i]) - {0})
            if name == "t5":
                lengths = [((document[i] == d) & (ids[i] > 1)).sum() for d in (1, 2)]
                masked = [max(round(0.15 * n), 1) if n else 0 for n in lengths]
                expected = [max(round(n / 3), 1) if n else 0 for n in masked]
                assert spans == sum(expected)
                assert (labels[i] > 0).sum() == sum(masked) + spans + ends
                left = sum(lengths) - sum(masked) + spans + ends
                assert (inputs[i] > 0).sum() == left

    def test_sentinels_last_for_2009_words(self):
        code = in_words("T5 and UL2", "functools.partial")

        def spans_of(mask):
            return (mask & ~jnp.pad(mask, (1, 0))[:-1]).sum()

        assert spans_of(jm.presets.t5(MANY_KEYS[0], (2009,))) == 100
        assert spans_of(jm.presets.t5(MANY_KEYS[0], (2010,))) == 101
        preset = eval(code, {"functools": functools, "jm": jm})
        assert spans_of(preset(MANY_KEYS[0], (2010,))) == 100

    def test_t5_can_only_mask_the_end_of_a_short_text(self):
        lengths = jnp.tile(jnp.array([10, 20, 30]), 166)

        def masks(ends):
            strategy = functools.partial(jm.presets.t5, grid=(30,), ends=ends)
            draw = jax.jit(jax.vmap(lambda key, n: strategy(key, within=(n,))))
            drawn = np.asarray(draw(MANY_KEYS[:498], lengths))
            return [len({mask.tobytes() for mask in drawn[i::3]}) for i in range(3)]

        assert masks("t5") == [1, 1, 1]
        assert masks("free")[0] == 9  # one span of two tokens

    def test_bert_masks_words_alone(self, page):
        ids = jnp.full(128, 2000).at[0].set(101).at[90:].set(0)
        changed, target = draw_many(page["bert"], ids)
        assert (target.sum(1) == 13).all()
        assert not target[:, [0, *range(90, 128)]].any()
        assert ((changed == ids) | target).all()
        # 6,500 words; five standard errors of a share of 0.8 are 0.025.
        assert abs((changed == 103).sum() / target.sum() - 0.8) < 0.025
        assert abs(((changed == ids) & target).sum() / target.sum() - 0.1) < 0.02


@pytest.mark.slow
class TestMasks:
    def test_schedules_grow_by_whole_counts(self, page):
        steps = jnp.array([0, 250, 500, 1000])
        masks = draw_many(jax.vmap(page["scheduled"], (None, 0)), steps)
        assert (masks.sum((2, 3)) == [98, 110, 122, 147]).all()
        assert not (masks[:, :-1] & ~masks[:, 1:]).any()

    def test_maskgit_masks_up_to_all_tokens(self, page):
        counts = counts_of(draw_many(page["maskgit"]))
        assert counts.max() == 256
        # The mean of cos(pi * u / 2) is 2 / pi; five standard errors of 500 are 0.07.
        assert abs(counts.mean() / 256 - 2 / np.pi) < 0.07

    def test_weighted_draws_are_exact_and_follow_the_weights(self, page):
        masks = draw_many(lambda key: page["weighted"](key, page["bands"], 358))
        assert set(counts_of(masks)) == {358}
        share = masks.mean((0, 2))
        assert (np.diff(share) > 0.01).all()
        one = draw_many(lambda key: page["weighted"](key, page["bands"], 1)).any(2)
        # The bands weigh 1 to 4 of 20; five standard errors of the largest share are 0.09.
        np.testing.assert_allclose(one.mean(0), np.linspace(1, 4, 8) / 20, atol=0.09)

    def test_blocks_lie_around_salient_tokens(self, page):
        saliency = jnp.full((14, 14), 1e-6).at[3, 4].set(1.0).at[9:11, 9].set(1.0).at[0, 0].set(1.0)
        expected = np.zeros((4, 14, 14), bool)
        for block, (y, x) in zip(expected, ((0, 0), (3, 4), (9, 9), (10, 9)), strict=True):
            block[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
        targets = draw_many(page["around_points"], saliency)
        # With a chance of 2 in 10,000 another token comes first.
        assert (targets == expected).all((1, 2, 3)).mean() > 0.98

    def test_guided_masks_hold_the_highest_scores(self, page):
        attention = np.asarray(page["attention"])
        assert attention[page["attended"]].min() > attention[~page["attended"]].max()
        hardest = np.argsort(attention.ravel())[-73:]
        for progress, held in ((0.0, 0), (0.5, 36), (1.0, 73)):
            masks = draw_many(page["hpm"], page["loss"], progress).reshape(500, 196)
            assert set(counts_of(masks)) == {147}
            assert masks[:, hardest[73 - held :]].all()

    def test_colored_noise_makes_patches(self, page):
        def differ(masks):
            return np.mean([masks[:, 1:] != masks[:, :-1], (masks[..., 1:] != masks[..., :-1]).mT])

        masks = draw_many(page["color_mae"])
        assert set(counts_of(masks)) == {147}
        random = draw_many(lambda key: jm.presets.mae(key, (14, 14)))
        assert [round(100 * differ(of)) for of in (masks, random)] == [31, 38]

    def test_shapes_have_exact_counts(self, page):
        masks = draw_many(page["compact"])
        assert set(counts_of(masks)) == {60}
        starts = draw_many(
            lambda key: jm.box_mask(jax.random.split(key)[0], (14, 14), num_boxes=2, extent=(3, 3))
        )
        distance = np.asarray(jax.vmap(jm.squared_distance)(starts))
        farthest = np.where(masks, distance, -1).max((1, 2))
        nearest_left = np.where(masks, 10**6, distance).min((1, 2))
        assert (farthest <= nearest_left).all()

    def test_boxes_in_order_leave_hardly_a_token_alone(self, page):
        def clipped(key):
            box_key, clip_key = jax.random.split(key)
            boxes = jm.box_mask(box_key, (14, 14), num_boxes=6, extent=((2, 5), (2, 5)))
            return jm.clip_count(clip_key, boxes, exactly=60)

        def alone(masks):
            padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
            beside = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1]
            beside |= padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
            return (masks & ~beside).sum() / masks.sum()

        masks = draw_many(page["in_order"])
        assert set(counts_of(masks)) == {60}
        assert alone(masks) < 0.002
        assert 0.03 < alone(draw_many(clipped)) < 0.05

        def box(key):
            return jm.box_mask(key, (14, 14), num_boxes=1, extent=((2, 5), (2, 5)))

        boxes = draw_many(lambda key: jax.vmap(box)(jax.random.split(key, 16)))
        first = np.where(boxes.any(1), boxes.argmax(1), 16)
        last = np.where(masks, first, -1).max((1, 2))
        assert (last < 16).all()
        assert not ((first < last[:, None, None]) & ~masks).any()

    def test_targets_of_volumes_have_sides_of_their_own(self, page):
        context, targets = draw_many(page["volume"])
        assert not (context & targets.any(1)).any()
        assert context.sum((1, 2, 3)).min() >= 4
        counts = targets.sum((2, 3, 4))
        assert set(counts.ravel()) == {27, 36, 48, 64}
        assert (counts.min(1) < counts.max(1)).mean() > 0.9
        apart = targets & (targets.cumsum(1) == 1)
        assert apart.sum(1).max() == 1
        np.testing.assert_array_equal(apart.any(1), targets.any(1))
        one = eval(
            in_words("Sizes and strategies of their own", "lambda"), {"jm": jm, "grid": (14, 14)}
        )
        assert set(counts_of(draw_many(one))) <= set(range(25, 43))

    def test_mixture_takes_every_strategy(self, page):
        counts = counts_of(draw_many(page["mixture"]))
        assert set(counts) == {75, 127, 147}

    def test_budget_of_modalities_is_exact(self, page):
        counts = draw_many(page["visible"]).sum((2, 3))
        assert (counts.sum(1) == 98).all()
        # Every share of a Dirichlet(1, 1, 1) draw has mean 1/3; five standard errors are 0.053.
        np.testing.assert_allclose(counts.mean(0) / 98, 1 / 3, atol=0.053)


@pytest.mark.slow
def test_blocks_of_the_page_on_models_print_what_their_comments_say(models):
    code = "".join(JAX_ALONE)
    assert models["printed"] == re.findall(r"^print\(.*\)  # (.*)$", code, re.M)
    assert len(models["printed"]) == code.count("print(") > 5
