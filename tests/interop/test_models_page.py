"""The page on existing models: its Python runs and prints what it says, and its claims hold."""

import contextlib
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepa_masks_jax as jm

torch = pytest.importorskip("torch")
for library in ("flax", "equinox", "equimo", "keras", "haiku"):
    pytest.importorskip(library)

PAGE = Path(__file__).parents[2] / ".github" / "MODELS.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S))
MANY_KEYS = jax.random.split(jax.random.key(7), 1000)
ATTENTIONS = [f"{name}_attention" for name in ("jax", "nnx", "linen", "haiku", "keras", "equinox")]


@pytest.fixture(scope="module")
def page():
    """The names that the page defines, and what it prints under `printed`."""
    known, output = {}, io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(CODE, known)
    return known | {"printed": output.getvalue().splitlines()}


def test_blocks_print_what_their_comments_say(page):
    comments = re.findall(r"^print\(.*\)  # (.*)$", CODE, re.M)
    assert comments
    assert len(comments) == CODE.count("print(")
    assert page["printed"] == comments


def with_mask(page, name, queries, tokens, mask):
    """The outputs for a mask as the library takes it."""
    if name == "keras_attention":
        return page["keras_layer"](queries, tokens, attention_mask=mask)
    if name == "haiku_attention":
        return page["haiku_layer"].apply(page["haiku_weights"], queries, tokens, tokens, mask)
    if name == "equinox_attention":
        return page["equinox_layer"](queries, tokens, tokens, mask=mask)
    if name == "nnx_attention":
        return page["nnx_layer"](queries, tokens, mask=mask)
    if name == "linen_attention":
        return page["linen_layer"].apply(page["variables"], queries, tokens, mask=mask)
    q, k = (x.reshape(*x.shape[:-1], 4, 8) for x in (queries, tokens))
    return jax.nn.dot_product_attention(q, k, k, mask=mask).reshape(queries.shape)


class TestLayersThatTakeAMask:
    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_queries_see_the_keys_of_their_own_sample(self, page, name):
        x, y, seen, at, mask = (page[n] for n in ("x", "y", "seen", "at", "cross_mask"))
        assert not seen.valid.all()
        assert not at.valid.all()
        before = page[name](y, x, mask)
        for sample in range(3):  # 2 is padding
            changed = jnp.where((seen.sample == sample)[..., None], x + 1, x)
            moves = (page[name](y, changed, mask) != before).any(-1)
            np.testing.assert_array_equal(moves[at.valid], (at.sample == sample)[at.valid])

    @pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "keras_attention"])
    def test_one_row_has_the_shape_of_the_table(self, page, name):
        x, y, mask = page["x"], page["y"], page["cross_mask"]
        of_row = mask[1] if name == "equinox_attention" else mask[1][None]
        alone = with_mask(page, name, y[1], x[1], of_row)
        np.testing.assert_allclose(alone, page[name](y, x, mask)[1], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ATTENTIONS[:3])
    def test_rows_without_an_axis_for_heads_are_read_as_heads(self, page, name):
        x, y, mask = page["x"], page["y"], page["cross_mask"]
        wrong = with_mask(page, name, y, x, mask)
        assert float(jnp.abs(wrong - page[name](y, x, mask)).max()) > 0.1
        with pytest.raises((AssertionError, TypeError, ValueError)):
            with_mask(page, name, y[:3], x[:3], mask[:3])


class TestPaddedLists:
    """`valid` of lists of one sample, without a mask of queries by keys."""

    @pytest.fixture
    def batch(self):
        counts = jnp.array([60, 100, 1, 99, 37, 80, 100, 50])
        valid = jnp.arange(100) < counts[:, None]
        return jax.random.normal(jax.random.key(3), (8, 100, 32)), valid

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_valid_along_the_keys_is_the_mask(self, page, batch, name):
        x, valid = batch
        expected = page[name](x, x, jnp.broadcast_to(valid[:, None], (8, 100, 100)))
        if name == "equinox_attention":
            given = jnp.broadcast_to(valid[2], (100, 100))
        else:
            given = valid[:, None, :] if name == "keras_attention" else valid[:, None, None, :]
        got = with_mask(page, name, *((x[2], x[2]) if "equinox" in name else (x, x)), given)
        expected = expected[2] if "equinox" in name else expected
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ["jax_attention", "nnx_attention", "linen_attention"])
    def test_valid_of_a_batch_as_it_is_is_refused_or_misread(self, page, batch, name):
        x, valid = batch
        with pytest.raises((TypeError, ValueError)):
            with_mask(page, name, x, x, valid)
        x, valid = (jnp.tile(a, (13, *[1] * (a.ndim - 1)))[:100] for a in batch)
        wrong = with_mask(page, name, x, x, valid)
        right = with_mask(page, name, x, x, valid[:, None, None, :])
        assert float(jnp.abs(wrong - right).max()) > 0.1

    def test_counts_equal_a_mask_to_the_bit(self):
        """At every count from 1 to all, forward and backward."""
        valid = jnp.arange(100) < jnp.arange(1, 101)[:, None]
        x = jnp.where(valid[..., None], jax.random.normal(jax.random.key(3), (100, 100, 32)), 7.0)

        def both(**options):
            def attend(x):
                heads = x.reshape(*x.shape[:2], 4, 8)
                return jax.nn.dot_product_attention(heads, heads, heads, **options)

            return attend(x), jax.grad(lambda x: jnp.sum(attend(x) ** 2, where=where))(x)

        where = valid[..., None, None]
        counts = both(key_value_seq_lengths=valid.sum(-1, dtype=jnp.int32))
        jax.tree.map(np.testing.assert_array_equal, counts, both(mask=valid[:, None, None, :]))


class TestKernelsThatTakeNoMask:
    def test_splash_in_a_layer_of_flax(self, page):
        layer = page["nnx"].clone(page["splash_layer"])
        layer.attention_fn = page["nnx"].dot_product_attention
        expected = layer(page["y"], page["x"], mask=page["cross_mask"][:, None])
        got = page["splash_rows"](page["y"], page["x"], page["at"], page["seen"])
        valid = page["at"].valid
        np.testing.assert_allclose(got[valid], expected[valid], atol=1e-5)

    @pytest.mark.parametrize("name", ["mask", "samples"])
    def test_linen_passes_what_is_called_mask_alone(self, page, name):
        given = {}
        known = {"given": given}
        exec(
            f"def attend(query, key, value, {name}=None, **_):\n given[0] = {name}\n return query",
            known,
        )
        layer = page["linen"].MultiHeadDotProductAttention(4, attention_fn=known["attend"])
        sample = page["seen"].sample[0]
        layer.apply(page["variables"], page["x"][0], mask=sample)
        assert given[0] is (sample if name == "mask" else None)

    def test_one_list_for_the_batch_begins_where_each_sample_does(self, page):
        masks = page["masks"].context, page["masks"].targets[:, 0]
        for of_sample, listed, cu in zip(
            masks, (page["batch"], page["batch_at"]), (page["cu_k"], page["cu_q"]), strict=True
        ):
            counts = np.asarray(of_sample).reshape(8, -1).sum(1)
            assert counts.sum() < listed.sample.size
            assert cu.tolist() == [0, *np.cumsum(counts), listed.sample.size]
            assert cu.dtype == np.int32


class TestFlax:
    def test_batch_norm_takes_valid_as_its_mask(self, page):
        norm = page["nnx"].BatchNorm(1, rngs=page["nnx"].Rngs(0), momentum=0.0)
        norm(page["values"], mask=page["listed"].valid[:, None])
        assert (float(norm.mean[0]), float(norm.var[0])) == (3.0, 1.0)

    def test_lists_come_back_from_their_arrays_alone(self, page):
        jax.tree.map(np.testing.assert_array_equal, page["restored"], page["seen"])
        assert page["restored"].per_row == 2
        with pytest.raises(TypeError, match="can not serialize 'TokenIndices'"):
            page["serialization"].to_bytes(page["seen"])


class TestGathering:
    def test_nan_at_the_padding_passes_a_masked_attention(self, page):
        context = page["masks"].context
        seen = jax.vmap(lambda mask: jm.token_indices(mask, size=100))(context)
        assert not seen.valid.all()
        mask = jnp.broadcast_to(seen.valid[:, None], (8, 100, 100))
        gathered = jnp.take_along_axis(page["patches"], seen.indices[..., None], axis=1)
        outputs = page["jax_attention"](gathered, gathered, mask)
        assert jnp.isnan(outputs[~seen.valid.all(1)]).all()
        taken = jax.vmap(jm.take_tokens)(page["patches"], seen)
        assert not jnp.isnan(page["jax_attention"](taken, taken, mask)).any()

    def test_lists_of_images_have_no_padding(self, page):
        seen, targets = jax.vmap(page["exact"])(MANY_KEYS)
        assert seen.valid.all()
        assert targets.valid.all()
        listed = (targets.indices[..., None] == seen.indices[:, None, None]).any()
        assert not listed, "a token is context and target"

    @pytest.mark.parametrize(
        "target_of",
        [
            lambda key: jm.random_mask(key, (14, 14), num_masked=98),
            lambda key: jm.random_tube_mask(key, (2, 7, 14), mask_ratio=0.5),
            lambda key: jm.blockwise_mask(key, (14, 14), num_masked=98),
            lambda key: jm.inverse_block_mask(key, (14, 14), num_masked=98),
            lambda key: jm.span_mask(key, (196,), mask_ratio=0.5, span=7, overlap=False),
            lambda key: jm.clip_count(key, jm.vjepa_mask(key, (14, 14)), exactly=98),
        ],
        ids=["random", "tube", "blockwise", "inverse_block", "span", "clip_count"],
    )
    def test_targets_of_one_count_leave_contexts_of_one_count(self, target_of):
        targets = jax.vmap(target_of)(MANY_KEYS)
        assert (targets.reshape(1000, -1).sum(1) == 98).all()
        seen = jax.vmap(lambda target: jm.token_indices(~target, size=98))(targets)
        assert seen.valid.all()

    def test_kept_patches_are_those_of_the_list(self, page):
        taken = jax.vmap(jm.take_tokens)(page["patches"], page["exact_seen"])
        np.testing.assert_array_equal(page["kept"], taken)

    @pytest.mark.parametrize("gathers_first", [True, False])
    def test_nan_of_a_dropped_token_reaches_the_weights_if_it_is_embedded(self, gathers_first):
        patches = jnp.array([[1.0], [jnp.nan], [2.0]])
        seen = jm.token_indices(jnp.array([True, False, True]), size=2)

        def loss(weights):
            if gathers_first:
                return (jm.take_tokens(patches, seen) @ weights).sum()
            return jm.take_tokens(patches @ weights, seen).sum()

        gradient = jax.grad(loss)(jnp.ones((1, 1)))
        assert bool(jnp.isnan(gradient).any()) != gathers_first

    def test_a_size_read_from_a_list_cannot_be_jitted(self):
        def model(indices):
            return jnp.zeros(int(jnp.max(indices.indices)) + 1)

        indices = jm.token_indices(jnp.ones(4, bool), size=4)
        assert model(indices).shape == (4,)
        with pytest.raises(jax.errors.ConcretizationTypeError):
            jax.jit(model)(indices)
        assert jax.jit(lambda indices: jnp.zeros(indices.num_tokens))(indices).shape == (4,)


class TestClips:
    def test_lists_have_no_padding_and_tubes_stay_tubes(self, page):
        seen, target = jax.vmap(page["clip"])(MANY_KEYS)
        assert seen.valid.all()
        assert target.valid.all()
        frames = np.asarray(target.indices).reshape(-1, 8, 123)
        np.testing.assert_array_equal(frames, frames[:, :1] + 196 * np.arange(8)[:, None])
        both = np.concatenate([seen.indices, target.indices], axis=1)
        assert (np.sort(both) == np.arange(1568)).all()

    @pytest.mark.parametrize("preset", [jm.presets.vjepa_short_range, jm.presets.vjepa_long_range])
    def test_clip_is_a_frame_repeated(self, preset):
        keys = MANY_KEYS[:100]
        clips = jax.vmap(lambda key: preset(key, (8, 14, 14)))(keys)
        frames = jax.vmap(lambda key: preset(key, (14, 14)))(keys)
        np.testing.assert_array_equal(clips, np.asarray(frames)[:, None].repeat(8, axis=1))

    @pytest.mark.parametrize(
        ("preset", "median"),
        [(jm.presets.vjepa_short_range, 123), (jm.presets.vjepa_long_range, 156)],
    )
    def test_numbers_of_the_page(self, preset, median):
        keys = jax.random.split(jax.random.key(8), 20_000)
        counts = np.asarray(jax.vmap(lambda key: preset(key, (14, 14)).sum())(keys))
        assert np.median(counts) == median
        assert round(np.abs(counts - median).mean()) == 12

    def test_clip_count_on_the_clip_breaks_tubes(self):
        def clip(key):
            mask_key, clip_key = jax.random.split(key)
            target = jm.presets.vjepa_short_range(mask_key, (8, 14, 14))
            return jm.clip_count(clip_key, target, exactly=984)

        clips = np.asarray(jax.vmap(clip)(MANY_KEYS))
        broken = (clips != clips[:, :1]).any((1, 2, 3))
        assert 0.96 < broken.mean() < 0.99


class TestEquimo:
    IMAGE = jax.random.normal(jax.random.key(4), (3, 32, 32))

    def seen(self, features, image):
        """The tokens whose pixels move the class token: bool[8, 8]."""
        slopes = jax.jacrev(lambda image: features(image)[0, :2])(image)
        return jnp.abs(slopes).sum((0, 1)).reshape(8, 4, 8, 4).sum((1, 3)) > 0

    def test_context_is_seen(self, page):
        key, image = page["keys"][0], self.IMAGE
        seen = self.seen(lambda image: page["equimo_features"](key, image), image)
        np.testing.assert_array_equal(seen, ~jm.presets.mae(key, (8, 8)))

    def test_target_as_it_is_shows_what_it_should_hide(self, page):
        key, image = page["keys"][0], self.IMAGE
        options = {"mask": jm.presets.mae(key, (8, 8)), "inference": True}
        seen = self.seen(lambda image: page["vit"].features(image, key=key, **options), image)
        np.testing.assert_array_equal(seen, options["mask"])


class TestPyTorch:
    ROWS = re.findall(r"^\| (.*?) \| (.*?) \| (`.*?`) \| .*\|$", TEXT, re.M)

    @pytest.mark.parametrize(("model", "takes", "given"), ROWS, ids=[row[0] for row in ROWS])
    def test_what_the_table_gives_is_what_it_says_that_the_model_takes(
        self, page, model, takes, given
    ):
        for code in re.findall("`(.*?)`", given):
            value = eval(code, page)
            if "lists" in takes:
                assert isinstance(value, list)
                assert len(value) == (4 if code == "four_targets" else 1)
                assert all(entry.dtype == torch.int64 for entry in value)
                assert all(entry.ndim == 2 and len(entry) == 8 for entry in value)
            else:
                tokens = 1568 if "tubes" in code else 196
                assert value.shape == (8, tokens)
                assert value.dtype == (torch.float32 if "noise" in takes else torch.bool)

    def test_the_table_was_read(self):
        assert len(self.ROWS) == 9

    def test_metas_gather_takes_exact_lists_and_refuses_padding(self, page):
        patches = torch.tensor(np.asarray(page["patches"]))

        def gather(indices):  # as src/masks/utils.py of facebookresearch/ijepa
            return torch.gather(patches, 1, indices.unsqueeze(-1).repeat(1, 1, 32))

        lists = np.asarray(page["exact_targets"].indices)
        for target, indices in zip(page["four_targets"], lists.swapaxes(0, 1), strict=True):
            expected = np.take_along_axis(patches.numpy(), indices[..., None], axis=1)
            np.testing.assert_array_equal(gather(target), expected)
        with pytest.raises(RuntimeError, match="index 196 is out of bounds"):
            gather(torch.full((8, 3), 196))  # padding

    def test_one_count_for_the_whole_batch_of_tubes(self, page):
        assert len(set(page["flat"](page["tubes"]).sum(1).tolist())) == 1
