"""The page of recipes: it is short, its Python runs and prints what it says, its promises hold.

Also the part of the page on models that needs JAX alone; tests/interop runs that page as a whole.
"""

import contextlib
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepa_masks_jax as jm

PAGE = Path(__file__).parents[1] / ".github" / "RECIPES.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text()
pytestmark = pytest.mark.usefixtures("users_promotion")

BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
RECIPE = re.compile(r"^### (.+)\n(.+)\n```py(thon)?\n((?:.*\n)*?)```\n(.+)\n", re.M)
RECIPES = {name: (when, code, holds) for name, when, _, code, holds in RECIPE.findall(TEXT)}
MODELS = PAGE.with_name("MODELS.md").read_text()
JAX_ALONE = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", MODELS, re.M | re.S)
    if not re.search("import .*(flax|equinox|torch)|from (flax|equimo)", block)
]
MANY_KEYS = jax.random.split(jax.random.key(7), 500)


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


def test_every_recipe_is_short_and_says_what_it_guarantees():
    assert len(TEXT.splitlines()) <= 450
    assert list(RECIPES) == re.findall(r"^### (.*)$", TEXT, re.M)
    for name, (when, code, holds) in RECIPES.items():
        assert when.endswith("."), name
        assert re.match(r"\*Guaranteed:\* .*\. \*Not:\* .*\.$", holds), name
        assert "print(" in code, name
        # A script for worker processes cannot build on the first block.
        assert len(code.splitlines()) <= (12 if name != "Data workers" else 30), name
    assert all(len(line) <= 110 for block in BLOCKS for line in block.splitlines())


def test_the_index_has_every_recipe_and_no_other():
    index, linked = TEXT.split("## Steps")[0], re.findall(r"\]\(#(.*?)\)", TEXT)
    assert set(re.findall(r"\]\(#(.*?)\)", index)) == set(linked) == anchors(RECIPES)
    for file, anchor in re.findall(r"\]\(([\w./]+)#(.*?)\)", TEXT):
        assert anchor in anchors(re.findall(r"^#+ (.*)$", (PAGE.parent / file).read_text(), re.M))


@pytest.mark.slow
def test_blocks_print_what_their_comments_say(page):
    comments = re.findall(r"^print\(.*\)  # (.*)$", "".join(BLOCKS), re.M)
    assert len(comments) == "".join(BLOCKS).count("print(")
    assert page["printed"] == comments


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

    def test_ijepa_reads_the_context_alone(self, page):
        for key in page["keys"][:2]:
            options = page["params"], page["patches"][1]
            moved = jax.grad(page["ijepa_loss"], argnums=2)(*options, page["patches"][0], key)
            mask_key, index_key = jax.random.split(key)
            context = jm.presets.ijepa(mask_key, (14, 14)).context
            listed = jm.clip_count(index_key, context, maximum=90).reshape(-1)
            np.testing.assert_array_equal(jnp.abs(moved).sum(1) > 0, listed)

    def test_vjepa_pads_at_most_one_context_in_twenty(self):
        keys = jax.random.split(jax.random.key(8), 20_000)
        both = ((jm.presets.vjepa_short_range, 384), (jm.presets.vjepa_long_range, 112))
        for preset, size in both:
            masked = jax.vmap(lambda key, preset=preset: preset(key, (14, 14)).sum())(keys)
            assert 0.02 < (8 * (196 - np.asarray(masked)) < size).mean() <= 0.05

    def test_dino_lists_the_masked_tokens_of_the_batch(self, page):
        page = page["after"]["DINOv2 and DINOv3"]
        masks, packed = np.asarray(page["masks"]), page["packed"]
        np.testing.assert_array_equal(packed.indices, np.flatnonzero(masks))
        tokens = np.asarray(page["patches"]).reshape(8 * 196, 32)
        np.testing.assert_array_equal(page["masked"], tokens[masks.ravel()])
        counts = masks.sum((1, 2))
        assert sorted(counts) == [0, 0, 0, 0, 39, 58, 78, 98]
        crop, _, _ = np.nonzero(masks)
        np.testing.assert_allclose(page["weights"], 1 / counts[crop] / 4, rtol=1e-6)

    def test_dino_of_micro_batches_is_that_of_the_batch(self, page):
        """Errors of 1 have the loss 1; means of two crops each, averaged, have another."""
        masks = np.asarray(page["after"]["DINOv2 and DINOv3"]["masks"]).reshape(8, -1)
        crops = masks.sum(1) / np.maximum(masks.sum(1), 1)  # the mean error of each crop
        pairs = crops.reshape(4, 2)
        assert pairs.sum(1).sum() / 4 == 1
        assert np.mean(pairs.sum(1) / np.maximum((pairs > 0).sum(1), 1)) < 1

    def test_rows_give_each_sample_what_it_gets_alone(self, page):
        contexts, patches, keys = page["rows"]
        features = jax.vmap(page["row_features"])(contexts, patches, keys)
        features = np.asarray(features).reshape(8, 196, 32)
        attend, own = page["attend"], np.asarray(contexts).reshape(8, 196)
        for tokens, context, outputs in zip(page["patches"], own, features, strict=True):
            kept = outputs.any(1)  # a row that is too long drops tokens of its samples
            assert not (kept & ~context).any()
            alone = attend(jnp.eye(32), tokens[kept], jnp.ones(kept.sum(), bool))
            np.testing.assert_allclose(outputs[kept], alone, atol=1e-5)
        draw = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).context)
        before = sorted(mask.tobytes() for mask in np.asarray(draw(page["keys"])))
        assert before == sorted(mask.tobytes() for mask in own.reshape(8, 14, 14))

    def test_cosine_loss_is_that_of_the_valid_tokens(self, page):
        predicted, goal = page["patches"][0][:42], page["patches"][1]
        expected = 1 - np.mean(
            [
                np.dot(p, g) / np.linalg.norm(p) / np.linalg.norm(g)
                for p, g in zip(np.asarray(predicted[:40]), np.asarray(goal), strict=False)
            ]
        )
        loss = page["cosine_loss"](predicted, goal, page["at"])
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def test_cosine_loss_and_its_gradients_meet_no_nan(self, page):
        """Not even one that is masked afterwards; predictions at the padding may be zero."""
        predicted = jm.take_tokens(page["patches"][0], page["at"])
        slope = jax.grad(page["cosine_loss"], argnums=(0, 1))
        with jax.debug_nans(True):
            for slopes in slope(predicted, page["patches"][1], page["at"]):
                assert jnp.isfinite(slopes).all()

    @pytest.mark.parametrize("fill", [0, 1])
    def test_zeros_at_the_padding_make_the_gradients_of_a_cosine_nan(self, fill):
        at = jm.token_indices(jnp.array([True, False]), size=2)

        def loss(w):
            taken = jm.take_tokens(jnp.ones((2, 3)), at, fill=fill) * w
            unit = taken / jnp.linalg.norm(taken, axis=-1, keepdims=True)
            return jnp.sum(jnp.where(at.valid, 1 - unit[:, 0], 0)) / at.valid.sum()

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


@pytest.mark.slow
class TestData:
    SIDES = ((14, 14), (9, 25), (32, 8), (8, 12), (32, 3))

    def test_speech_has_the_spans_of_its_own_length(self, page):
        _, target = page["speech"](page["key"], jnp.int32(75))
        alone = jm.presets.wav2vec2(page["key"], (75,))
        np.testing.assert_array_equal(target, np.pad(alone, (0, 125)))

    def test_wavjepa_masks_are_disjoint(self, page):
        context, targets = jax.vmap(page["wavjepa"])(MANY_KEYS)
        assert not (context & targets.any(1)).any()
        assert targets.any(2).all()

    def test_padded_shapes_have_contexts_of_real_tokens_outside_the_targets(self, page):
        sides = jnp.array(self.SIDES * 16)
        context, targets = jax.vmap(page["padded"])(MANY_KEYS[:80], sides)
        free = jax.vmap(lambda sides: jm.inside((32, 32), sides))(sides) & ~targets.any(1)
        assert not (context & ~free).any()
        np.testing.assert_array_equal(
            context.sum((1, 2)), np.minimum(np.asarray(free).sum((1, 2)), 90)
        )

    @pytest.mark.parametrize("sides", SIDES)
    def test_packed_patches_are_those_of_a_grid_of_their_own(self, page, sides):
        context, targets, coordinates = page["packed_patches"](page["key"], jnp.array(sides))
        alone, count = jm.presets.ijepa(page["key"], sides), sides[0] * sides[1]
        np.testing.assert_array_equal(context[:count], alone.context.reshape(-1))
        np.testing.assert_array_equal(targets[:, :count], alone.targets.reshape(4, -1))
        assert not context[count:].any()
        assert not targets[:, count:].any()
        np.testing.assert_array_equal(
            coordinates[:count], np.stack(np.indices(sides), -1).reshape(-1, 2)
        )

    def test_a_full_grid_does_not_bound_the_samples_in_it(self):
        one = {"num_targets": 1, "target_scale": (0.4, 0.4), "target_aspect_ratio": (3, 3)}
        assert jm.ijepa_counts((14, 14), **one).target_max == 70
        assert jm.ijepa_counts((13, 14), **one).target_max == 78
        assert jm.ijepa_counts((32, 32)).target_max == 210

    def test_clips_are_those_of_their_own_length(self, page):
        target = page["clip_target"](page["key"], jnp.int32(5))
        alone = jm.presets.vjepa_long_range(page["key"], (5, 14, 14))
        np.testing.assert_array_equal(target, np.pad(alone, ((0, 3), (0, 0), (0, 0))))

    def test_documents_have_their_own_masks(self, page):
        segment, starts = np.asarray(page["segment"]), np.array([0, 40, 100])
        for document, count in enumerate((6, 9, 3)):
            tokens = jax.vmap(lambda key, d=document: page["tokens"](key, d))(MANY_KEYS[:50])
            assert (np.asarray(tokens)[:, segment == document].sum(1) == count).all()
            assert (np.asarray(tokens).sum(1) == count).all()
            length = int((segment == document).sum())
            spans = page["spans"](page["key"], starts[document], length)
            alone = jm.span_mask(page["key"], (length,), mask_ratio=0.3, span=4)
            np.testing.assert_array_equal(np.asarray(spans)[segment == document], alone)
            assert int(spans.sum()) == int(alone.sum())

    def test_satellite_images_have_targets_where_there_are_data(self, page):
        masks = page["after"]["Satellite images"]
        assert not (masks["target"] & ~masks["has_data"]).any()

    def test_foreground_is_never_left(self, page):
        foreground = page["foreground"]
        blocks, cells = (jax.vmap(page[name])(MANY_KEYS) for name in ("blocks", "cells"))
        assert not ((blocks | cells) & ~foreground).any()
        assert (blocks.sum((1, 2)) == 40).all()
        of_cells = np.asarray(cells).reshape(500, 7, 2, 7, 2).sum((2, 4))
        assert set(of_cells.ravel()) == {0, 4}
        assert ((of_cells == 4).sum((1, 2)) == 12).all()  # 60 % of 20 full cells

    def test_groups_are_masked_as_a_whole(self, page):
        word = np.asarray(page["word"])
        groups, tokens = (
            np.asarray(jax.vmap(page[name])(MANY_KEYS)) for name in ("of_groups", "of_tokens")
        )
        for masks in (groups, tokens):
            whole = [set(np.unique(masks[:, word == w].mean(1))) <= {0, 1} for w in range(5)]
            assert all(whole)
        first = np.unique(word, return_index=True)[1]
        assert (groups[:, first].sum(1) == 2).all()
        assert tokens.sum(1).max() == 4
        assert (tokens[:, first].mean(0) > 0.1).all()


@pytest.mark.slow
class TestMasks:
    def test_t5_splits_a_text_into_what_is_left_and_what_is_missing(self, page):
        for key in MANY_KEYS[:5]:
            inputs, labels = (x.tolist() for x in page["t5"](key, jnp.arange(512)))
            spans, text = {}, []
            for token in labels:
                if token > 32_000:
                    spans[token] = current = []
                else:
                    current.append(token)
            for token in inputs:
                text += spans[token] if token > 32_000 else [token]
            assert list(spans) == list(range(32_099, 32_099 - 26, -1))
            assert text == list(range(512))

    def test_t5_can_only_mask_the_end_of_a_short_text(self):
        for length in (10, 20, 30):
            masks = jax.vmap(lambda key, n=length: jm.presets.t5(key, (n,)))(MANY_KEYS[:20])
            assert len({mask.tobytes() for mask in np.asarray(masks)}) == 1

    def test_ul2_has_counts_and_spans_of_each_sample(self, page):
        starts = np.diff(np.asarray(page["ul2_masks"], int), axis=1, prepend=0) == 1
        assert starts.sum(1).tolist() == [10, 4]

    def test_f5_masks_one_span_of_each_utterance(self, page):
        _, _, holds = RECIPES["Padded speech"]
        code = re.findall(r"`(jm\.random_span_mask.*?)`", holds)[0]
        for length in (200, 75, 30):
            for key in MANY_KEYS[:10]:
                mask = np.asarray(eval(code, page, {"key": key, "length": length}))
                assert (np.diff(mask.astype(int), prepend=0) == 1).sum() == 1
                assert round(0.7 * length) <= mask.sum() <= round(0.95 * length)
                assert not mask[length:].any()

    def test_bert_masks_words_alone(self, page):
        ids = jnp.full(128, 2000).at[0].set(101).at[90:].set(0)
        changed, target = jax.vmap(page["bert"], (0, None))(MANY_KEYS, ids)
        assert (target.sum(1) == 13).all()
        assert not target[:, [0, *range(90, 128)]].any()
        assert ((changed == ids) | target).all()
        # 6,500 words; five standard errors of a share of 0.8 are 0.025.
        assert abs((changed == 103).sum() / target.sum() - 0.8) < 0.025
        assert abs(((changed == ids) & target).sum() / target.sum() - 0.1) < 0.02

    def test_diffusion_has_one_ratio_in_each_part(self, page):
        masks, t = jax.vmap(page["diffusion"])(MANY_KEYS[:100])
        np.testing.assert_array_equal(np.sort(np.floor(8 * t), 1), np.tile(np.arange(8), (100, 1)))
        np.testing.assert_array_equal(masks.sum(2), np.rint(512 * np.asarray(t)))

    def test_maskgit_masks_up_to_all_tokens(self, page):
        counts = np.asarray(jax.vmap(page["maskgit"])(MANY_KEYS)).sum((1, 2))
        assert counts.max() == 256
        # The mean of cos(pi * u / 2) is 2 / pi; five standard errors of 500 are 0.07.
        assert abs(counts.mean() / 256 - 2 / np.pi) < 0.07

    def test_mixture_takes_every_strategy(self, page):
        counts = np.asarray(jax.vmap(page["mixture"])(MANY_KEYS)).sum((1, 2))
        assert set(counts) == {75, 127, 147}

    def test_future_is_whole_frames(self, page):
        masks = np.asarray(jax.vmap(page["future"])(MANY_KEYS))
        frames = masks.any((2, 3))
        np.testing.assert_array_equal(frames, masks.all((2, 3)))
        assert (np.diff(frames.astype(int), axis=1) >= 0).all()
        assert set(frames.sum(1)) == {2, 3, 4, 5, 6}

    def test_targets_of_volumes_have_sides_of_their_own(self, page):
        context, targets = (np.asarray(x) for x in jax.vmap(page["volume"])(MANY_KEYS))
        assert not (context & targets.any(1)).any()
        assert context.sum((1, 2, 3)).min() >= 4
        counts = targets.sum((2, 3, 4))
        assert set(counts.ravel()) == {27, 36, 48, 64}
        assert (counts.min(1) < counts.max(1)).mean() > 0.9
        apart = targets & (targets.cumsum(1) == 1)
        assert apart.sum(1).max() == 1
        np.testing.assert_array_equal(apart.any(1), targets.any(1))

    def test_blocks_lie_around_salient_tokens(self, page):
        saliency = jnp.full((14, 14), 1e-6).at[3, 4].set(1.0).at[9:11, 9].set(1.0).at[0, 0].set(1.0)
        targets = np.asarray(page["around_points"](page["key"], saliency))
        expected = np.zeros((4, 14, 14), bool)
        for block, (y, x) in zip(expected, ((0, 0), (3, 4), (9, 9), (10, 9)), strict=True):
            block[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
        np.testing.assert_array_equal(targets, expected)

    def test_budget_of_modalities_is_exact(self, page):
        counts = np.asarray(jax.vmap(page["visible"])(MANY_KEYS)).sum((2, 3))
        assert (counts.sum(1) == 98).all()
        # Every share of a Dirichlet(1, 1, 1) draw has mean 1/3; five standard errors are 0.053.
        np.testing.assert_allclose(counts.mean(0) / 98, 1 / 3, atol=0.053)

    def test_guided_masks_hold_the_highest_scores(self, page):
        attention = np.asarray(page["attention"])
        assert attention[page["attended"]].min() > attention[~page["attended"]].max()
        half = np.asarray(page["hpm"](page["key"], page["loss"], 1.0))
        assert half.ravel()[np.argsort(attention.ravel())[-73:]].all()

    def test_shapes_have_exact_counts(self, page):
        assert (jax.vmap(page["time_strips"])(MANY_KEYS).sum((1, 2)) == 205).all()
        masks = jax.vmap(page["compact"])(MANY_KEYS)
        assert (masks.sum((1, 2)) == 60).all()
        starts = jax.vmap(
            lambda key: jm.box_mask(jax.random.split(key)[0], (14, 14), num_boxes=2, extent=(3, 3))
        )(MANY_KEYS)
        distance = np.asarray(jax.vmap(jm.squared_distance)(starts))
        farthest = np.where(masks, distance, -1).max((1, 2))
        nearest_left = np.where(masks, 10**6, distance).min((1, 2))
        assert (farthest <= nearest_left).all()

    def test_blocks_on_a_samples_own_size_have_exact_counts(self, page):
        for sides in ((14, 14), (9, 25), (3, 5)):
            masks = jax.vmap(page["own_size"], (0, None))(MANY_KEYS[:50], jnp.array(sides))
            assert (masks.sum((1, 2)) == 3 * sides[0] * sides[1] // 10).all()
            assert not masks[:, sides[0] :].any()
            assert not masks[:, :, sides[1] :].any()


@pytest.mark.slow
class TestAttentionWithoutAMaskArray:
    def test_blocks_print_what_their_comments_say(self, models):
        assert models["printed"] == re.findall(r"^print\(.*\)  # (.*)$", "".join(JAX_ALONE), re.M)
        assert len(models["printed"]) == 9

    def test_counts_of_valid_tokens_equal_a_mask_to_the_bit(self, models):
        """At every count from 1 to all, forward and backward."""
        valid = jnp.arange(100) < jnp.arange(1, 101)[:, None]
        x = jnp.where(valid[..., None], jax.random.normal(jax.random.key(3), (100, 100, 32)), 7.0)

        def both(attention):
            def loss(x):
                return jnp.sum(attention(x, valid) ** 2 * valid[..., None])

            return attention(x, valid), jax.grad(loss)(x)

        jax.tree.map(
            np.testing.assert_array_equal,
            both(models["counted_attention"]),
            both(models["jax_attention"]),
        )

    @pytest.mark.parametrize("name", ["row_attention", "splash_row"])
    def test_tokens_of_a_row_attend_to_their_own_sample(self, models, name):
        rows, x = models["rows"], models["row_x"]
        assert rows.valid.sum() == models["context"].sum()
        attention = models[name] if name == "row_attention" else jax.vmap(models[name])
        outputs = jax.vmap(jm.put_tokens)(attention(x, models["samples"]), rows)
        alone = jax.vmap(lambda mask: jm.token_indices(mask, size=196))(models["context"])
        tokens = jax.vmap(jm.take_tokens)(models["patches"], alone)
        expected = models["jax_attention"](tokens, alone.valid)
        expected = jax.vmap(jm.put_tokens)(expected, alone)
        np.testing.assert_allclose(outputs.reshape(8, 196, 32), expected, atol=1e-5)
