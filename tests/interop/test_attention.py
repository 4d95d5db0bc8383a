"""Attention of other libraries, told which tokens of a row belong together.

A small step with rows of two is compared with the same step on each sample alone, without padding
and without a mask: an encoder that attends to a context, and a predictor whose targets attend to
the encoder's outputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepa_masks_jax as jm

TOKENS, D, HEADS = 16, 8, 2
# For each of four samples; two share a row. The first two contexts fill a list of 8.
CONTEXT_COUNTS, TARGET_COUNTS = (3, 5, 5, 2), (4, 6, 5, 5)
TOLERANCES = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 5e-3}


def random_masks(context_counts):
    """Disjoint contexts and targets of the given counts: bool[2, 2, 4, 4] each."""
    random = np.random.default_rng(0)
    masks = np.zeros((2, 4, TOKENS), bool)
    for i, counts in enumerate(zip(context_counts, TARGET_COUNTS, strict=True)):
        context, target = np.split(random.permutation(TOKENS)[: sum(counts)], counts[:1])
        masks[0, i, context] = masks[1, i, target] = True
    return masks.reshape(2, 2, 2, 4, 4)


CASES = {  # context and target masks, and the lengths of their lists
    "a full row": (*random_masks(CONTEXT_COUNTS), 8, 13),
    "padding": (*random_masks(CONTEXT_COUNTS), 11, 13),
    "a sample without context": (*random_masks((3, 0, 5, 2)), 9, 13),
}


def own(dtype):
    """An attention as people write it, whose logits are -inf where the mask is False."""

    def attend(weights, queries, tokens, mask):
        q, k, v = queries @ weights["q"], tokens @ weights["k"], tokens @ weights["v"]
        logits = q @ k.T / np.asarray(D**0.5, dtype)
        if mask is not None:
            logits = jnp.where(mask, logits, -jnp.inf)
        return jax.nn.softmax(logits) @ v

    return weights_of("qkv", dtype), attend


def jax_nn(dtype, as_bias=False):
    def attend(weights, queries, tokens, mask):
        q, k, v = (
            (x @ w).reshape(-1, HEADS, D // HEADS)
            for x, w in zip((queries, tokens, tokens), weights.values(), strict=True)
        )
        mask = None if mask is None else mask[None]
        bias = None
        if as_bias and mask is not None:
            mask, bias = None, jnp.where(mask, 0, jnp.finfo(dtype).min / 2).astype(dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, mask).reshape(-1, D)

    return weights_of("qkv", dtype), attend


def flax_nnx(dtype):
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.MultiHeadAttention(
        HEADS, D, decode=False, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(layer)

    def attend(state, queries, tokens, mask):
        mask = None if mask is None else mask[None]
        return nnx.merge(graph, state)(queries, tokens, mask=mask)

    return state, attend


def flax_linen(dtype):
    linen = pytest.importorskip("flax.linen")
    layer = linen.MultiHeadDotProductAttention(HEADS, dtype=dtype, param_dtype=dtype)

    def attend(variables, queries, tokens, mask):
        return layer.apply(variables, queries, tokens, mask=None if mask is None else mask[None])

    return layer.init(jax.random.key(0), jnp.zeros((2, D), dtype)), attend


def equinox(dtype):
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.MultiheadAttention(HEADS, D, dtype=dtype, key=jax.random.key(0))
    weights, static = eqx.partition(layer, eqx.is_array)

    def attend(weights, queries, tokens, mask):
        return eqx.combine(weights, static)(queries, tokens, tokens, mask=mask)

    return weights, attend


def keras_layer(dtype):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layer = keras.layers.MultiHeadAttention(HEADS, D // HEADS, dtype=dtype)
    layer.build((1, 2, D), (1, 2, D))

    def attend(weights, queries, tokens, mask):
        mask = None if mask is None else mask[None]
        outputs, _ = layer.stateless_call(
            weights, [], queries[None], tokens[None], attention_mask=mask
        )
        return outputs[0]

    return [jnp.asarray(w.value, dtype) for w in layer.trainable_variables], attend


def haiku(dtype):
    hk = pytest.importorskip("haiku")

    @hk.without_apply_rng
    @hk.transform
    def layer(queries, tokens, mask):
        w_init = hk.initializers.VarianceScaling(1.0)
        attention = hk.MultiHeadAttention(HEADS, D // HEADS, w_init=w_init)
        return attention(queries, tokens, tokens, None if mask is None else mask[None])

    x = jnp.zeros((2, D), dtype)
    return layer.init(jax.random.key(0), x, x, None), layer.apply


LIBRARIES = {
    "own": own,
    "jax.nn": jax_nn,
    "bias": functools.partial(jax_nn, as_bias=True),
    "nnx": flax_nnx,
    "linen": flax_linen,
    "equinox": equinox,
    "keras": keras_layer,
    "haiku": haiku,
}
USE_JAX_NN = ("jax.nn", "bias", "nnx", "keras")  # whose float16 no CPU runs


def weights_of(names, dtype):
    keys = jax.random.split(jax.random.key(0), len(names))
    return {
        name: jax.random.normal(key, (D, D), dtype) / np.asarray(D**0.5, dtype)
        for name, key in zip(names, keys, strict=True)
    }


def inputs(dtype):
    """Patches of four samples and positions that they share."""
    patches, positions = jax.random.split(jax.random.key(1))
    return (
        jax.random.normal(patches, (4, TOKENS, D), dtype),
        jax.random.normal(positions, (TOKENS, D), dtype),
    )


def of_rows(attend, case, weights, patches, positions):
    """Encoder's and predictor's outputs, targets and lists of both rows."""
    context, target, seen_size, target_size = case

    def of_row(context, target, patches):
        seen = jm.token_indices(context, size=seen_size, per_row=2)
        at = jm.token_indices(target, size=target_size, per_row=2)
        patches, twice = patches.reshape(-1, D), jnp.tile(positions, (2, 1))
        tokens = jm.take_tokens(patches + twice, seen)
        features = attend(weights, tokens, tokens, jm.attention_mask(seen))
        queries = jm.take_tokens(twice, at)
        predicted = attend(weights, queries, features, jm.attention_mask(at, seen))
        return features, predicted, jm.take_tokens(patches, at), seen, at

    return jax.vmap(of_row)(context, target, patches.reshape(2, 2, TOKENS, D))


def loss_of_rows(attend, case, *arrays):
    _, predicted, goal, _, at = of_rows(attend, case, *arrays)
    error = jnp.mean((predicted - goal).astype(jnp.float32) ** 2, axis=-1)
    has_context = np.pad(case[0].any((2, 3)), ((0, 0), (0, 1)))  # of each row; padding has none
    counts = jax.vmap(lambda sample, row: row[sample])(at.sample, jnp.asarray(has_context))
    return jnp.mean(error, where=counts)


def loss_of_samples(attend, case, weights, patches, positions):
    """The same, with the tokens of each sample as NumPy lists them."""
    errors = []
    for i, (context, target) in enumerate(zip(*(m.reshape(4, -1) for m in case[:2]), strict=True)):
        if context.any():
            tokens = (patches[i] + positions)[np.flatnonzero(context)]
            features = attend(weights, tokens, tokens, None)
            queries = positions[np.flatnonzero(target)]
            predicted = attend(weights, queries, features, None)
            goal = patches[i][np.flatnonzero(target)]
            errors.append(jnp.mean((predicted - goal).astype(jnp.float32) ** 2, axis=-1))
    return jnp.mean(jnp.concatenate(errors))


@pytest.mark.parametrize(
    ("library", "dtype"),
    [
        (library, dtype)
        for library in LIBRARIES
        for dtype in TOLERANCES
        if dtype != "float16" or library not in USE_JAX_NN
    ],
)
def test_loss_and_gradients_equal_those_of_each_sample_alone(library, dtype):
    weights, attend = LIBRARIES[library](dtype)

    @jax.jit
    def slopes(*arrays):
        def both(case):
            losses = (functools.partial(f, attend, case) for f in (loss_of_rows, loss_of_samples))
            return [jax.value_and_grad(loss, argnums=(0, 1, 2))(*arrays) for loss in losses]

        cases = CASES if dtype == "float32" else CASES.keys() - {"padding"}
        return {name: both(CASES[name]) for name in cases}

    for name, results in slopes(weights, *inputs(dtype)).items():
        rows, samples = (jax.tree.map(np.float32, jax.tree.leaves(r)) for r in results)
        largest = max(np.abs(leaf).max() for leaf in samples)
        assert largest > 0.1
        for row, sample in zip(rows, samples, strict=True):
            atol = TOLERANCES[dtype] * largest
            np.testing.assert_allclose(row, sample, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_move_for_the_sample_that_is_changed_alone(library):
    weights, attend = LIBRARIES[library]("float32")
    patches, positions = inputs("float32")
    case = CASES["padding"]
    outputs = jax.jit(lambda patches: of_rows(attend, case, weights, patches, positions))
    features, predicted, _, seen, at = outputs(patches)
    for i in range(4):
        changed = outputs(patches.at[i].add(1))
        for before, after, listed in ((features, changed[0], seen), (predicted, changed[1], at)):
            moves = np.asarray((before != after).any(-1))
            is_own = np.asarray(listed.sample == i % 2) & (np.arange(2) == i // 2)[:, None]
            np.testing.assert_array_equal(moves, is_own & np.asarray(listed.valid))


def test_queries_without_a_key_have_finite_gradients():
    """Two samples of two tokens, worked by hand: each target attends to one token."""
    x = jnp.array([[1.0, 2], [3, 4], [5, 6], [7, 9]]) / 4
    context = jnp.array([[True, False], [False, True]])

    def loss(weight):
        seen = jm.token_indices(context, size=2, per_row=2)
        at = jm.token_indices(~context, size=3, per_row=2)
        keys, queries = weight * jm.take_tokens(x, seen), jm.take_tokens(x, at)
        logits = jnp.where(jm.attention_mask(at, seen), queries @ keys.T, -jnp.inf)
        errors = jnp.mean((jax.nn.softmax(logits) @ keys - queries) ** 2, axis=-1)
        return jnp.mean(errors, where=at.valid)

    np.testing.assert_allclose(jax.value_and_grad(loss)(0.5), (0.30859, -1.01562), atol=1e-5)


class TestOtherForms:
    """A row as libraries want it that take no mask: samples, ranges, lengths and offsets."""

    def lists(self, case="padding"):
        context, target, seen_size, target_size = CASES[case]
        seen = jm.token_indices(context[0], size=seen_size, per_row=2)
        return seen, jm.token_indices(target[0], size=target_size, per_row=2)

    @pytest.mark.parametrize("case", CASES)
    def test_numbers(self, case):
        seen, _ = self.lists(case)
        first, second = CASES[case][0][0].sum((1, 2))
        padding = seen.sample.size - first - second
        from_one = (seen.sample + 1) % 3
        assert from_one.tolist() == [1] * first + [2] * second + [0] * padding
        offsets = jnp.searchsorted(seen.sample, jnp.arange(3))
        assert offsets.tolist() == [0, first, first + second]
        assert jnp.diff(offsets).tolist() == [first, second]

    @pytest.mark.parametrize("case", CASES)
    def test_ranges_are_the_mask(self, case):
        seen, at = self.lists(case)
        start, stop = (
            np.asarray(jnp.searchsorted(seen.sample, at.sample, side=side))[:, None]
            for side in ("left", "right")
        )
        keys = np.arange(seen.sample.size)
        mask = np.asarray(jm.attention_mask(at, seen))
        has_key = np.isin(at.sample, seen.sample)
        np.testing.assert_array_equal(((keys >= start) & (keys < stop))[has_key], mask[has_key])

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("implementation", ["xla", "xla_chunked"])
    def test_tokamax_takes_ranges(self, monkeypatch, case, implementation):
        pytest.importorskip("tokamax")
        monkeypatch.setattr("sys.argv", ["python"])  # tokamax parses it, and refuses pytest's
        from tokamax._src.ops.attention import api, base

        seen, at = self.lists(case)
        bounds = (jnp.searchsorted(seen.sample, at.sample, side=s) for s in ("left", "right"))
        start, stop = (bound[None, None] for bound in bounds)
        q, k = (
            jax.random.normal(jax.random.key(0), (1, listed.sample.size, HEADS, D))
            for listed in (at, seen)
        )
        counts = np.isin(at.sample, seen.sample) & np.asarray(at.valid)

        def with_ranges(q, k):
            ranges = base.Mask(k_start=start, k_end=stop)
            return api.IMPLEMENTATIONS[implementation](q, k, k, mask=ranges)

        def with_mask(q, k):
            mask = jm.attention_mask(at, seen)[None, None]
            return jax.nn.dot_product_attention(q, k, k, mask=mask)

        results = [slopes(attend, counts, q, k) for attend in (with_ranges, with_mask)]
        for got, expected in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)


def slopes(attend, counts, q, k):
    """What counts of the outputs, and the gradients of their squares."""

    def loss(q, k):
        outputs = attend(q, k)[0, counts]
        return jnp.sum(outputs**2), outputs

    grads, outputs = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(q, k)
    return outputs, *grads


def varlen_attention(q, k, seqlens_q, seqlens_k):
    """A kernel for sequences of unequal length in plain words: float[tokens, heads, width]."""
    outputs = []
    for i in range(len(seqlens_q) - 1):
        queries, keys = q[seqlens_q[i] : seqlens_q[i + 1]], k[seqlens_k[i] : seqlens_k[i + 1]]
        weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", queries, keys) / q.shape[-1] ** 0.5)
        outputs.append(jnp.einsum("hqk,khd->qhd", weights, keys))
    return jnp.concatenate(outputs)


@pytest.mark.parametrize("case", ["padding", "a sample without context"])
def test_one_list_of_the_batch_is_cut_into_its_samples(case):
    masks = [mask.reshape(4, 4, 4) for mask in CASES[case][:2]]
    seen, at = (
        jm.token_indices(m, size=n, per_row=4) for m, n in zip(masks, (19, 23), strict=True)
    )
    starts = [np.asarray(jnp.searchsorted(x.sample, jnp.arange(6))) for x in (at, seen)]
    assert [cu[-1] for cu in starts] == [23, 19]  # padding is the last sample: no output is unset
    x = jax.random.normal(jax.random.key(0), (4 * TOKENS, HEADS * D))
    q, k = (jm.take_tokens(x, listed).reshape(-1, HEADS, D) for listed in (at, seen))
    has_key = at.valid & jnp.isin(at.sample, seen.sample)

    def loss(attend, q, k):
        return jnp.sum(attend(q, k) ** 2, where=has_key[:, None, None])

    def with_mask(q, k):
        mask = jm.attention_mask(at, seen)[None]
        return jax.nn.dot_product_attention(q, k, k, mask=mask)

    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, attend), argnums=(0, 1)))(q, k)
        for attend in (lambda q, k: varlen_attention(q, k, *starts), with_mask)
    ]
    for got, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


class TestSplash:
    """JAX's kernel for TPUs, interpreted. The row of keys is full, so padding has no key."""

    def lists(self):
        random = np.random.default_rng(0)
        order = random.permuted(np.tile(np.arange(100), (2, 1)), axis=1)
        context, target = order < 64, order >= 70
        seen = jm.token_indices(context, size=128, per_row=2)
        at = jm.token_indices(target, size=128, per_row=2)
        assert seen.valid.all()
        assert not at.valid.all()
        return seen, at

    @pytest.mark.parametrize("is_cross", [False, True], ids=["self", "cross"])
    def test_samples_as_segments(self, is_cross):
        from jax.experimental.pallas.ops.tpu import splash_attention

        lists = self.lists()
        seen, at = lists[0], lists[is_cross]
        whole = splash_attention.MultiHeadMask([splash_attention.FullMask((128, 128))] * HEADS)
        kernel = splash_attention.make_splash_mha_single_device(whole, interpret=True)
        q, k = jax.random.normal(jax.random.key(0), (2, 1, 128, HEADS, D))

        def splash(q, k):
            segments = splash_attention.SegmentIds(q=at.sample, kv=seen.sample)
            q, k = (x[0].swapaxes(0, 1) for x in (q, k))
            return kernel(q / D**0.5, k, k, segment_ids=segments).swapaxes(0, 1)[None]

        def with_mask(q, k):
            mask = jm.attention_mask(at, seen)[None, None]
            return jax.nn.dot_product_attention(q, k, k, mask=mask)

        counts = np.asarray(at.valid)
        assert np.isfinite(jax.jit(splash)(q, k)).all()
        results = [slopes(attend, counts, q, k) for attend in (splash, with_mask)]
        for got, expected in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)

    @pytest.mark.parametrize("shape", [(128, 192), (192, 128)])
    def test_other_lengths_are_refused(self, shape):
        from jax.experimental.pallas.ops.tpu import splash_attention

        whole = splash_attention.MultiHeadMask([splash_attention.FullMask(shape)] * HEADS)
        with pytest.raises(ValueError, match=r"=128 should divide .*=192"):
            splash_attention.make_splash_mha_single_device(whole, interpret=True)
