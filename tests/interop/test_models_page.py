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
for library in ("flax", "equinox", "equimo"):
    pytest.importorskip(library)

PAGE = Path(__file__).parents[2] / ".github" / "MODELS.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S))
MANY_KEYS = jax.random.split(jax.random.key(7), 1000)
ATTENTIONS = ("jax_attention", "nnx_attention", "linen_attention", "equinox_attention")


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


class TestAttention:
    def of_batch(self, page, name):
        attention = page[name]
        return jax.vmap(attention) if name == "equinox_attention" else attention

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_valid_outputs_see_the_valid_tokens_alone(self, page, name):
        """Token `j` of sample 4 is changed in copy `j`, and no token in the last copy."""
        tokens, valid = page["x"][4], np.asarray(page["seen"].valid[4])
        assert valid.any()
        assert not valid.all()
        changed = jnp.eye(101, 100, dtype=bool)[..., None]
        copies = jnp.where(changed, jax.random.normal(jax.random.key(5), tokens.shape), tokens)
        outputs = self.of_batch(page, name)(copies, jnp.tile(valid, (101, 1)))
        changes = np.asarray((jnp.abs(outputs[:-1] - outputs[-1]) > 1e-6).any(-1))
        others = ~np.eye(100, dtype=bool) & valid
        sees = np.broadcast_to(valid[:, None], (100, 100))
        np.testing.assert_array_equal(changes[others], sees[others])

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_one_sample_has_the_shape_of_the_table(self, page, name):
        x, valid = page["x"], page["seen"].valid
        mask = jnp.broadcast_to(valid[4], (100, 100)) if "equinox" in name else valid[4][None, None]
        expected = self.of_batch(page, name)(x, valid)[4]
        alone = self.with_mask(page, name, x[4], mask)
        np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_valid_of_a_batch_as_it_is_raises(self, page, name):
        x, valid = page["x"], page["seen"].valid
        x = x[4] if name == "equinox_attention" else x
        with pytest.raises((TypeError, ValueError)):
            self.with_mask(page, name, x, valid)

    @pytest.mark.parametrize("name", ATTENTIONS[:3])
    def test_valid_of_a_batch_of_k_is_misread(self, page, name):
        x, valid = (
            jnp.tile(a, (13, *[1] * (a.ndim - 1)))[:100] for a in (page["x"], page["seen"].valid)
        )
        wrong = self.with_mask(page, name, x, valid)
        assert float(jnp.abs(wrong - page[name](x, valid)).max()) > 0.1

    def test_equinox_refuses_valid_of_one_sample(self, page):
        with pytest.raises(ValueError, match="mask must have shape"):
            self.with_mask(page, "equinox_attention", page["x"][4], page["seen"].valid[4])

    def with_mask(self, page, name, x, mask):
        if name == "equinox_attention":
            return page["equinox_layer"](x, x, x, mask=mask)
        if name == "nnx_attention":
            return page["nnx_layer"](x, mask=mask)
        if name == "linen_attention":
            return page["linen_layer"].apply(page["variables"], x, mask=mask)
        heads = x.reshape(*x.shape[:-1], 4, 8)
        return jax.nn.dot_product_attention(heads, heads, heads, mask=mask).reshape(x.shape)


class TestGathering:
    def test_nan_at_the_padding_passes_a_masked_attention(self, page):
        seen = page["seen"]
        assert not seen.valid.all()
        gathered = jnp.take_along_axis(page["patches"], seen.indices[..., None], axis=1)
        assert jnp.isnan(page["jax_attention"](gathered, seen.valid)[~seen.valid.all(1)]).all()
        assert not jnp.isnan(page["jax_attention"](page["x"], seen.valid)).any()

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

    def test_third_is_the_third_target(self, page):
        np.testing.assert_array_equal(
            page["third"].indices, np.asarray(page["exact_targets"].indices)[:, 2]
        )
        assert page["third"].num_tokens == 196

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
    def seen(self, features, image):
        """The tokens whose pixels move the class token: bool[8, 8]."""
        slopes = jax.jacrev(lambda image: features(image)[0, :2])(image)
        return jnp.abs(slopes).sum((0, 1)).reshape(8, 4, 8, 4).sum((1, 3)) > 0

    def test_context_is_seen(self, page):
        key, image = page["keys"][0], page["images"][0]
        seen = self.seen(lambda image: page["equimo_features"](key, image), image)
        np.testing.assert_array_equal(seen, ~jm.presets.mae(key, (8, 8)))

    def test_target_as_it_is_shows_what_it_should_hide(self, page):
        key, image = page["keys"][0], page["images"][0]
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
            gather(page["lists"](page["seen"]))

    def test_one_count_for_the_whole_batch_of_tubes(self, page):
        assert len(set(page["flat"](page["tubes"]).sum(1).tolist())) == 1
