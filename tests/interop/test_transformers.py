"""Masks of this library in models of Hugging Face transformers, tiny and with random weights.

The check of every model is the same: the pixels of one token are changed, and what the model
returns may change only where the mask says that the model sees that token.
"""

import functools
import math
import operator

import jax
import numpy as np
import pytest

import jepa_masks_jax as jm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

IMAGE_GRID, PATCH = (8, 8), (4, 4)
VIDEO_GRID, TUBELET = (2, 4, 4), (2, 4, 4)
VIDEO_TOKENS, VIDEO_SHAPE = 32, (4, 3, 16, 16)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SPREAD = {"initializer_range": 0.3}
VIT = SIZES | SPREAD | {"intermediate_size": 32}
KEYS = jax.random.split(jax.random.key(0))


@pytest.fixture(autouse=True)
def seeded_without_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def pictures(grid, patch):
    """A random picture, and as many others that each differ from it in the pixels of one token."""
    pixels = np.eye(math.prod(grid), dtype=bool).reshape(-1, 1, *grid)
    for axis, side in enumerate(patch, 2):
        pixels = pixels.repeat(side, axis)
    picture, other = np.random.default_rng(0).normal(size=(2, 3, *pixels.shape[2:]))
    return torch.tensor(np.concatenate([picture[None], np.where(pixels, other, picture)]))


def seen_tokens(output, masks, grid, patch):
    """Which tokens the model sees under each mask: bool[B, N], as `output` of the model tells.

    Every picture goes in with every mask, all in one batch of the model.
    """
    batch, views = len(masks), pictures(grid, patch)
    rows = np.asarray(masks).repeat(len(views), axis=0)
    result = output(views.repeat(batch, *[1] * (views.ndim - 1)), torch.tensor(rows))
    result = result.unflatten(0, (batch, len(views))).flatten(2)
    return ((result[:, 1:] - result[:, :1]).abs() > 1e-9).any(-1).numpy()


def random_pixels(*shape):
    return torch.randn(shape, dtype=torch.float64)


def flat(masks):
    return np.asarray(masks).reshape(len(masks), -1)


def listed(indices):
    """The tokens of index lists, as booleans."""
    return (np.asarray(indices)[..., None] == np.arange(VIDEO_TOKENS)).any(-2)


@functools.cache
def ijepa_batch():
    return jax.vmap(jm.presets.ijepa, in_axes=(0, None))(KEYS, IMAGE_GRID)


def target_batch(count):
    """Targets of exactly `count` tokens, in blocks: bool[B, *IMAGE_GRID]."""

    def draw(key):
        mask_key, clip_key = jax.random.split(key)
        target = jm.block_mask(mask_key, IMAGE_GRID, target_scale=(0.5, 0.7))
        return jm.clip_count(clip_key, target, exactly=count)

    return jax.vmap(draw)(KEYS)


def vjepa_batch(context_size=6, target_size=10):
    """Index lists of exact length for a context and a target: int32[B, K] and int32[B, L]."""

    def draw(key):
        mask_key, target_key, context_key = jax.random.split(key, 3)
        target = jm.clip_count(
            target_key, jm.presets.vjepa_short_range(mask_key, VIDEO_GRID), minimum=12, maximum=24
        )
        context = jm.token_indices(~target, size=context_size, key=context_key)
        return context, jm.token_indices(target, size=target_size, key=target_key)

    context, target = jax.vmap(draw)(KEYS)
    assert context.valid.all()
    assert target.valid.all()
    return context.indices, target.indices


def vjepa2_model():
    config = transformers.VJEPA2Config(
        **SIZES,
        **SPREAD,
        crop_size=16,
        patch_size=4,
        frames_per_clip=4,
        tubelet_size=2,
        mlp_ratio=2,
        pred_hidden_size=16,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
        pred_num_mask_tokens=2,
    )
    return transformers.VJEPA2Model(config).double().eval()


def vjepa2_context(model, video, indices):
    """The encoder on the tokens of the context alone, each at its own position: [B, K, D]."""
    tokens = model.encoder.embeddings(video)
    hidden = tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
    for layer in model.encoder.layer:
        hidden = layer(hidden, indices)[0]
    return model.encoder.layernorm(hidden)


class TestVJEPA2:
    def test_model_selects_after_the_encoder_has_seen_everything(self):
        model = vjepa2_model()
        context, target = vjepa_batch()
        target_mask = [torch.tensor(np.asarray(target)[:1]).long()]

        def predictions(video, indices):
            masks = {
                "context_mask": [indices],
                "target_mask": [target_mask[0].expand(len(video), -1)],
            }
            return model(video.transpose(1, 2), **masks).predictor_output.last_hidden_state

        assert seen_tokens(predictions, context[:1], VIDEO_GRID, TUBELET).all()

    def test_lists_pick_the_rows_of_the_context_and_of_the_targets(self):
        model = vjepa2_model()
        context, target = vjepa_batch()
        video = random_pixels(2, *VIDEO_SHAPE)
        context_mask = [torch.tensor(np.asarray(context))]
        target_mask = [torch.tensor(np.asarray(target))]
        result = model(video, context_mask=context_mask, target_mask=target_mask)
        for picked, indices in (
            (result.masked_hidden_state, context),
            (result.predictor_output.target_hidden_state, target),
        ):
            hidden = result.last_hidden_state.numpy()
            expected = np.take_along_axis(hidden, np.asarray(indices)[..., None], axis=1)
            np.testing.assert_array_equal(picked.numpy(), expected)
        assert result.predictor_output.last_hidden_state.shape == (*target.shape, 16)

    def test_encoder_on_the_context_alone_sees_the_context_alone(self):
        model = vjepa2_model()
        context, _ = vjepa_batch()

        def output(video, indices):
            return vjepa2_context(model, video.transpose(1, 2), indices.long())

        seen = seen_tokens(output, context, VIDEO_GRID, TUBELET)
        np.testing.assert_array_equal(seen, listed(context))

    def test_encoder_on_all_tokens_is_the_model_s_own(self):
        model = vjepa2_model()
        video = random_pixels(2, *VIDEO_SHAPE)
        everything = torch.arange(VIDEO_TOKENS).repeat(2, 1)
        expected = model(video, skip_predictor=True, context_mask=[everything]).last_hidden_state
        torch.testing.assert_close(vjepa2_context(model, video, everything), expected)

    def test_predictor_takes_the_context_put_back_on_the_grid(self):
        model = vjepa2_model()
        context, target = vjepa_batch()
        target = torch.tensor(np.asarray(target)).long()

        def output(video, indices):
            indices = indices.long()
            hidden = vjepa2_context(model, video.transpose(1, 2), indices)
            at = indices[..., None].expand_as(hidden)
            on_grid = torch.zeros(len(hidden), VIDEO_TOKENS, 16, dtype=hidden.dtype).scatter(
                1, at, hidden
            )
            targets = target.repeat_interleave(len(video) // len(target), 0)
            return model.predictor(on_grid, [indices], [targets]).last_hidden_state

        seen = seen_tokens(output, context, VIDEO_GRID, TUBELET)
        np.testing.assert_array_equal(seen, listed(context))

    @pytest.mark.parametrize("padded", ["context_mask", "target_mask"])
    def test_padding_raises(self, padded):
        model = vjepa2_model()
        target = jm.vjepa_mask(KEYS[0], VIDEO_GRID)
        full = torch.arange(8)[None]
        too_long = torch.tensor(np.asarray(jm.token_indices(target, size=VIDEO_TOKENS).indices))[
            None
        ]
        masks = {"context_mask": [full], "target_mask": [full]} | {padded: [too_long]}
        with pytest.raises(RuntimeError, match="index 32 is out of bounds"):
            model(random_pixels(1, *VIDEO_SHAPE), **masks)

    def test_two_entries_in_a_list_raise(self):
        context, target = (torch.tensor(np.asarray(indices)) for indices in vjepa_batch())
        video = random_pixels(2, *VIDEO_SHAPE)
        with pytest.raises(RuntimeError, match="size"):
            vjepa2_model()(video, context_mask=[context, context], target_mask=[target, target])

    def test_bool_masked_pos_is_ignored(self):
        model = vjepa2_model()
        video = random_pixels(1, *VIDEO_SHAPE)
        masked = torch.ones(1, VIDEO_TOKENS, dtype=torch.bool)
        torch.testing.assert_close(
            model(video, bool_masked_pos=masked).last_hidden_state, model(video).last_hidden_state
        )


class TestIJepa:
    def model(self, **options):
        config = transformers.IJepaConfig(**VIT, image_size=32, patch_size=4)
        return transformers.IJepaModel(config, **options).double().eval()

    def test_mask_tokens_hide_all_but_the_context(self):
        model = self.model(use_mask_token=True)
        context, _ = ijepa_batch()

        def output(images, masked):
            return model(images, bool_masked_pos=masked).last_hidden_state

        seen = seen_tokens(output, ~flat(context), IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, flat(context))

    def test_union_of_the_targets_leaves_tokens_that_are_in_no_mask(self):
        model = self.model(use_mask_token=True)
        context, targets = ijepa_batch()

        def output(images, masked):
            return model(images, bool_masked_pos=masked).last_hidden_state

        seen = seen_tokens(output, flat(targets.any(1)), IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, ~flat(targets.any(1)))
        assert (seen & ~flat(context)).any()

    def test_attention_mask_hides_all_but_the_context_without_mask_tokens(self):
        model = self.model()
        context, _ = ijepa_batch()

        def output(images, visible):
            hidden = model(images, attention_mask=visible).last_hidden_state
            return hidden * visible[..., None]

        seen = seen_tokens(output, flat(context), IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, flat(context))

    def test_attention_mask_is_the_encoder_on_the_context_alone(self):
        model = self.model()
        context, _ = ijepa_batch()
        visible = torch.tensor(flat(context))
        images = random_pixels(len(context), 3, 32, 32)
        result = model(images, attention_mask=visible).last_hidden_state
        for image, mask, hidden in zip(images, visible, result, strict=True):
            alone = model.embeddings(image[None])[:, mask]
            for layer in model.layers:
                alone = layer(alone)
            torch.testing.assert_close(hidden[mask], model.layernorm(alone)[0])

    def test_bool_masked_pos_needs_a_mask_token(self):
        images = random_pixels(1, 3, 32, 32)
        with pytest.raises(AttributeError):
            self.model()(images, bool_masked_pos=torch.ones(1, 64, dtype=torch.bool))


class TestViTMAE:
    def model(self, kept, **options):
        ratio = 1 - (kept + 0.5) / 64
        options = VIT | {"image_size": 32, "patch_size": 4, "mask_ratio": ratio} | options
        return transformers.ViTMAEModel(transformers.ViTMAEConfig(**options)).double().eval()

    @pytest.mark.parametrize("kept", [16, 20, 29])
    def test_noise_reproduces_the_mask(self, kept):
        model, target = self.model(kept), flat(target_batch(64 - kept))

        def output(images, masked):
            result = model(images, noise=masked.float())
            np.testing.assert_array_equal(result.mask, masked)
            return result.last_hidden_state

        seen = seen_tokens(output, target, IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, ~target)

    def test_mask_ratio_of_the_strategy_is_that_of_the_model(self):
        model = self.model(16, mask_ratio=0.75)
        target = jax.vmap(functools.partial(jm.presets.mae, grid=IMAGE_GRID))(KEYS)
        images = random_pixels(len(KEYS), 3, 32, 32)
        result = model(images, noise=torch.tensor(flat(target)).float())
        np.testing.assert_array_equal(result.mask, flat(target))

    @pytest.mark.parametrize("count", [40, 56])
    def test_another_count_is_accepted_and_another_mask_is_used(self, count):
        images = random_pixels(len(KEYS), 3, 32, 32)
        target = torch.tensor(flat(target_batch(count)))
        masked = self.model(16)(images, noise=target.float()).mask
        assert masked.sum(1).tolist() == [48] * len(KEYS)

    def test_bool_masked_pos_is_ignored(self):
        model, images = self.model(16), random_pixels(1, 3, 32, 32)
        noise = torch.rand(1, 64)
        target = torch.tensor(flat(target_batch(48)[:1]))
        ignored = model(images, noise=noise, bool_masked_pos=target).mask
        torch.testing.assert_close(ignored, model(images, noise=noise).mask)
        assert (ignored != target).any()

    @pytest.mark.parametrize("num_tokens", [64, 196, 256])
    def test_half_a_token_makes_the_count_of_the_model_exact(self, num_tokens):
        for kept in range(1, num_tokens):
            assert int(num_tokens * (1 - (1 - (kept + 0.5) / num_tokens))) == kept
        assert any(
            int(num_tokens * (1 - (1 - kept / num_tokens))) != kept for kept in range(num_tokens)
        ) == (num_tokens == 196)


class TestVideoMAE:
    def model(self, **options):
        config = transformers.VideoMAEConfig(
            **VIT,
            **options,
            image_size=16,
            patch_size=4,
            num_frames=4,
            tubelet_size=2,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=32,
        )
        return transformers.VideoMAEForPreTraining(config).double().eval()

    @pytest.mark.parametrize("output", ["videomae.last_hidden_state", "logits"])
    def test_target_is_bool_masked_pos(self, output):
        model = self.model()
        target = jax.vmap(functools.partial(jm.presets.videomae_tube, grid=VIDEO_GRID))(KEYS)
        count = int(target[0].sum())

        def run(video, masked):
            part = model.videomae if output.startswith("videomae") else model
            result = part(video.transpose(1, 2), bool_masked_pos=masked)
            return operator.attrgetter(output.split(".")[-1])(result)

        seen = seen_tokens(run, flat(target), VIDEO_GRID, TUBELET)
        np.testing.assert_array_equal(seen, ~flat(target))
        video = random_pixels(2, *VIDEO_SHAPE)
        logits = model(video, bool_masked_pos=torch.tensor(flat(target))).logits
        assert logits.shape == (2, count, 2 * 4 * 4 * 3)

    def test_loss_compares_with_the_targets(self):
        """With fixed predictions, only the pixels of targets change the loss."""
        model = self.model(norm_pix_loss=False)
        model.decoder.head.weight.zero_()
        target = jm.presets.videomae_tube(KEYS[0], VIDEO_GRID)
        masked = torch.tensor(flat(target[None]))
        first, *others = pictures(VIDEO_GRID, TUBELET).transpose(1, 2)
        losses = [model(video[None], bool_masked_pos=masked).loss for video in (first, *others)]
        changes = [bool((loss - losses[0]).abs() > 1e-9) for loss in losses[1:]]
        assert changes == masked[0].tolist()

    def test_unequal_counts_are_accepted_and_mix_samples(self):
        model = self.model()
        masked = torch.zeros(2, VIDEO_TOKENS, dtype=torch.bool)
        masked[0, 10:], masked[1, 14:] = True, True
        video = random_pixels(2, *VIDEO_SHAPE)
        before = model.videomae(video, bool_masked_pos=masked).last_hidden_state
        video[1] += 1
        after = model.videomae(video, bool_masked_pos=masked).last_hidden_state
        assert before.shape[1] == 12
        assert ((after - before)[0].abs() > 1e-9).any()

    def test_counts_that_do_not_divide_raise(self):
        masked = torch.zeros(2, VIDEO_TOKENS, dtype=torch.bool)
        masked[0, 10:], masked[1, 13:] = True, True
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            self.model()(random_pixels(2, *VIDEO_SHAPE), bool_masked_pos=masked)


class TestData2VecVision:
    def model(self, **options):
        options = VIT | {"image_size": 32, "patch_size": 4, "use_mask_token": True} | options
        config = transformers.Data2VecVisionConfig(**options, use_absolute_position_embeddings=True)
        return transformers.Data2VecVisionModel(config).double().eval()

    def test_target_is_bool_masked_pos(self):
        model = self.model()
        target = jax.vmap(functools.partial(jm.block_mask, grid=IMAGE_GRID))(KEYS)

        def output(images, masked):
            return model(images, bool_masked_pos=masked).last_hidden_state

        seen = seen_tokens(output, flat(target), IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, ~flat(target))

    def test_class_token_is_in_the_output_and_not_in_the_mask(self):
        images = random_pixels(1, 3, 32, 32)
        masked = torch.ones(1, 64, dtype=torch.bool)
        assert self.model()(images, bool_masked_pos=masked).last_hidden_state.shape[1] == 65
        with pytest.raises(RuntimeError, match="must match the size"):
            self.model()(images, bool_masked_pos=torch.ones(1, 65, dtype=torch.bool))

    def test_bool_masked_pos_needs_a_mask_token(self):
        images = random_pixels(1, 3, 32, 32)
        with pytest.raises(AttributeError):
            self.model(use_mask_token=False)(
                images, bool_masked_pos=torch.ones(1, 64, dtype=torch.bool)
            )


class TestDINO:
    """DINOv2, with and without register tokens, and DINOv3."""

    @pytest.fixture(params=["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
    def case(self, request):
        """A model, and how many tokens stand before those of the image."""
        registers = {} if request.param == "Dinov2" else {"num_register_tokens": 4}
        config = getattr(transformers, f"{request.param}Config")
        model = getattr(transformers, f"{request.param}Model")
        model = model(config(**VIT, **registers, image_size=32, patch_size=4))
        return model.double().eval(), 5 if registers else 1

    def test_target_is_bool_masked_pos(self, case):
        model, _ = case
        target = jax.vmap(lambda key: jm.presets.dinov3(key, IMAGE_GRID))(KEYS)
        assert len(set(flat(target).sum(1))) == 2, "any count will do, so let them differ"

        def output(images, masked):
            return model(images, bool_masked_pos=masked).last_hidden_state

        seen = seen_tokens(output, flat(target), IMAGE_GRID, PATCH)
        np.testing.assert_array_equal(seen, ~flat(target))

    def test_all_tokens_are_computed(self, case):
        model, others = case
        masked = torch.ones(1, 64, dtype=torch.bool)
        result = model(random_pixels(1, 3, 32, 32), bool_masked_pos=masked).last_hidden_state
        assert result.shape == (1, others + 64, 16)

    @pytest.mark.parametrize("of_the_grid", [True, False])
    def test_other_shapes_raise(self, case, of_the_grid):
        """The shape of the grid, or entries for the class and register tokens as well."""
        model, others = case
        shape = (2, 8, 8) if of_the_grid else (2, others + 64)
        masked = torch.ones(shape, dtype=torch.bool)
        with pytest.raises(RuntimeError, match="must match the size"):
            model(random_pixels(2, 3, 32, 32), bool_masked_pos=masked)
