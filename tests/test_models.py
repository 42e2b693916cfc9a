"""Laws of the trained networks and of the blocks that they share."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from guided_distill.errors import UserError
from guided_distill.layers import blocks
from guided_distill.layers.blocks import ResBlock, SelfAttention, downsample, num_groups, upsample
from guided_distill.layers.embeddings import Conditioning, GuidanceEmbedding, sinusoidal
from guided_distill.models import mlp, unet

B, CLASSES = 4, 3
SMALL = {"channels": 8, "channel_multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
SHALLOW = {"channel_multipliers": (1,), "attention_resolutions": (), "num_res_blocks": 0}
NETWORKS = {
    "unet": (unet.Network, (4, 4, 1), {"out_channels": 2, **SMALL}),
    "mlp": (mlp.Network, (2,), {"out_channels": 2, "width": 16, "depth": 2}),
}


def cond(label=0, w=0.0):
    return {"label": jnp.full(B, label), "guidance": jnp.full(B, w)}


def perturbed(params, scale=0.3):
    """Every leaf (array or shape) moved at random, so that nothing is zero by initialisation."""
    rng = np.random.default_rng(1)

    def moved(leaf):
        start = 0 if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        return jnp.asarray(start + scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(moved, params)


def quick_jit(function):
    """Compiled fast, for code that runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def build(name, **changes):
    """-> (small network, shapes of its params, (params, z, time, cond, rngs) -> output, z, time)."""
    network, shape, fields = NETWORKS[name]
    net = network(**{**fields, "num_classes": CLASSES, **changes})
    z = jax.random.normal(jax.random.key(2), (B, *shape))
    time = jnp.linspace(0.1, 0.9, B)
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, time, cond())["params"]

    def apply(params, z, time, cond, rngs=None):
        return net.apply({"params": params}, z, time, cond, rngs=rngs)

    return net, shapes, quick_jit(apply), z, time


def without_guidance(params):
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({k: v for k, v in flat.items() if "guidance" not in k})


def with_zero_guidance(params):
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({k: jnp.zeros(v.shape) if "guidance_out" in k else v for k, v in flat.items()})


def test_frequencies_fall_from_1_to_1_over_max_period():
    v = jnp.array([0.5, 3.0])
    features = sinusoidal(v, 6, max_period=100.0)
    angles = np.array(v)[:, None] * np.array([[1.0, 0.1, 0.01]])
    np.testing.assert_allclose(features, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-6)
    with pytest.raises(ValueError, match="even"):
        sinusoidal(v, 5)


def test_guidance_embedding_starts_at_zero_and_can_learn():
    embed, w = GuidanceEmbedding(features=8), jnp.array([0.0, 0.5, 4.0])
    params = quick_jit(embed.init)(jax.random.key(0), w)
    np.testing.assert_array_equal(embed.apply(params, w), np.zeros((3, 8)))
    grads = quick_jit(jax.grad(lambda p: jnp.sum(embed.apply(p, w))))(params)["params"]["guidance_out"]
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_network_ignores_w_and_a_trained_one_does_not(name):
    net, _, apply, z, time = build(name, embed_guidance=True, **(SHALLOW if name == "unet" else {}))
    params = quick_jit(net.init)(jax.random.key(0), z, time, cond())["params"]
    np.testing.assert_array_equal(apply(params, z, time, cond()), np.zeros((*z.shape[:-1], 2)))
    moved = perturbed(params)
    # A new network is mostly zero: all moves but the guidance input, which stays as initialised.
    initial = traverse_util.flatten_dict(params)
    flat = traverse_util.flatten_dict(moved)
    student = traverse_util.unflatten_dict({k: initial[k] if "guidance" in k else v for k, v in flat.items()})
    outputs = [apply(student, z, time, cond(w=w)) for w in (0.0, 3.0)]
    assert np.std(outputs[0]) > 0.01
    np.testing.assert_array_equal(*outputs)
    outputs = [apply(moved, z, time, cond(w=w)) for w in (0.0, 3.0)]
    assert not np.allclose(*outputs, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_grafting_the_guidance_input_changes_nothing(name):
    _, shapes, apply, z, time = build(name, embed_guidance=True)
    _, teacher_shapes, teacher, _, _ = build(name)
    student = with_zero_guidance(perturbed(shapes))
    shared = without_guidance(student)
    assert jax.tree.structure(shared) == jax.tree.structure(teacher_shapes)
    given = cond(label=1, w=2.0)
    expected = teacher(shared, z, time, given)
    np.testing.assert_allclose(apply(student, z, time, given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_time_and_the_null_class_are_heard(name):
    _, shapes, apply, z, time = build(name)
    assert shapes["conditioning"]["label"]["embedding"].shape[0] == CLASSES + 1
    moved = perturbed(shapes)
    outputs = [apply(moved, z, time, cond(label)) for label in range(CLASSES + 1)]
    assert np.all(np.isfinite(outputs))
    for other in outputs[:-1]:
        assert not np.allclose(outputs[-1], other, atol=1e-3)
    assert not np.allclose(outputs[0], apply(moved, z, 1 - time, cond(0)), atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_cond_is_required_exactly_where_it_is_read(name):
    network, shape, fields = NETWORKS[name]
    z, time = jnp.zeros((B, *shape)), jnp.zeros(B)

    def shapes(given, **changes):
        net = network(**fields, **changes)
        return jax.eval_shape(net.init, jax.random.key(0), z, time, given)

    table = traverse_util.flatten_dict(shapes({"text": z}))  # unconditional; what is not known is ignored
    assert not any("label" in path or "guidance" in path for path in table)
    with pytest.raises(UserError, match="label"):
        shapes({"guidance": time}, num_classes=CLASSES)
    with pytest.raises(UserError, match="guidance"):
        shapes({}, embed_guidance=True)


@pytest.mark.parametrize(
    ("preset", "size", "num_classes", "millions"),
    [("cifar10", 32, 0, 60.0), ("imagenet64", 64, 1000, 295.9)],
)
def test_presets_have_the_published_size(preset, size, num_classes, millions):
    """PD, appendix on architectures."""
    net = unet.UNet(out_channels=3, num_classes=num_classes, **unet.PRESETS[preset])
    z, time = jnp.zeros((2, size, size, 3)), jnp.zeros(2)
    given = {"label": jnp.zeros(2, int)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, time, given)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("remat", ["none", "full"])
def test_dropout_is_active_iff_its_rng_is_given(remat):
    _, shapes, apply, z, time = build("unet", dropout=0.5, remat=remat, **SHALLOW)
    plain = build("unet", **SHALLOW)[2]
    moved = perturbed(shapes)
    dropped = [apply(moved, z, time, cond(), {"dropout": jax.random.key(k)}) for k in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2], atol=1e-3)
    expected = plain(moved, z, time, cond())
    np.testing.assert_allclose(apply(moved, z, time, cond()), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(dropped[0], expected, atol=1e-3)


@pytest.mark.parametrize("policy", ["dots", "full"])
def test_remat_changes_neither_outputs_nor_gradients(policy):
    plain, shapes, _, z, time = build("unet", **SHALLOW)
    remat, remat_shapes, _, _, _ = build("unet", remat=policy, **SHALLOW)
    assert shapes == remat_shapes
    moved = perturbed(shapes)

    def results(net):
        def loss(params):
            output = net.apply({"params": params}, z, time, cond())
            return jnp.sum(output**2), output

        return quick_jit(jax.grad(loss, has_aux=True))(moved)

    for a, b in zip(jax.tree.leaves(results(plain)), jax.tree.leaves(results(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.max(np.abs(a))))


def test_bfloat16_has_float32_parameters_and_output_and_is_close():
    _, shapes, apply, z, time = build("unet")
    _, half_shapes, half, _, _ = build("unet", dtype="bfloat16")
    assert shapes == half_shapes and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    moved = perturbed(shapes)
    expected, output = apply(moved, z, time, cond(1)), half(moved, z, time, cond(1))
    assert output.dtype == jnp.float32
    difference = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    assert 1e-5 < difference < 0.05


def test_time_and_w_enter_in_float32():
    """936 / 1000 and 937 / 1000 are one bfloat16 number; a bfloat16 network tells them apart nevertheless."""
    times = jnp.array([0.936, 0.937])
    assert times.astype(jnp.bfloat16)[0] == times.astype(jnp.bfloat16)[1]
    assert sinusoidal(times.astype(jnp.bfloat16), 8).dtype == jnp.float32
    net, shapes, _, z, _ = build("unet", embed_guidance=True, dtype="bfloat16", **SHALLOW)
    params = perturbed(shapes)
    fixed, nudged = jnp.full(B, times[0]), jnp.full(B, times[1])

    @quick_jit
    def vector(time, w):
        capture = {"capture_intermediates": lambda module, _: isinstance(module, Conditioning)}
        _, state = net.apply({"params": params}, z, time, {"label": cond()["label"], "guidance": w}, **capture)
        return state["intermediates"]["conditioning"]["__call__"][0]

    start = vector(fixed, fixed)
    assert start.dtype == jnp.float32
    for other in (vector(nudged, fixed), vector(fixed, nudged)):
        assert np.max(np.abs(other - start)) > 1e-2


def test_downsampling_undoes_upsampling_and_both_keep_the_mean():
    h = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    assert upsample(h).shape == (2, 8, 12, 3) and downsample(h).shape == (2, 2, 3, 3)
    np.testing.assert_allclose(downsample(upsample(h)), h, rtol=1e-6)
    for resample in (upsample, downsample):
        means = [np.asarray(image).mean((1, 2)) for image in (resample(h), h)]
        np.testing.assert_allclose(*means, atol=1e-6)


def test_unknown_resampling_is_refused():
    with pytest.raises(ValueError, match="sideways"):
        jax.eval_shape(ResBlock(4, "sideways").init, jax.random.key(0), jnp.ones((2, 4, 4, 4)), jnp.ones((2, 3)))


@pytest.mark.parametrize(("resample", "law"), [(None, lambda h: h), ("up", upsample), ("down", downsample)])
def test_a_new_block_is_its_skip_path(resample, law):
    h, emb = jax.random.normal(jax.random.key(0), (2, 4, 4, 8)), jnp.ones((2, 5))
    block = ResBlock(8, resample)
    output, _ = quick_jit(block.init_with_output)(jax.random.key(1), h, emb)
    np.testing.assert_allclose(output, law(h), atol=1e-6)


@pytest.mark.parametrize(("fields", "heads"), [({}, 1), ({"num_heads": 2}, 2), ({"head_dim": 2}, 4)])
def test_attention_is_softmax_of_scaled_products(fields, heads):
    h = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    attention = SelfAttention(**fields)
    params = perturbed(jax.eval_shape(attention.init, jax.random.key(1), jnp.asarray(h)))
    p = jax.tree.map(np.asarray, params["params"])
    grouped = h.reshape(2, 12, 2, 4)  # 2 groups of 4 channels
    norm = (grouped - grouped.mean((1, 3), keepdims=True)) / grouped.std((1, 3), keepdims=True)
    tokens = norm.reshape(2, 12, 8) * p["norm"]["scale"] + p["norm"]["bias"]
    qkv = tokens @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = (part.reshape(2, 12, heads, 8 // heads) for part in np.split(qkv, 3, axis=-1))
    weights = np.exp(np.einsum("bind,bjnd->bnij", q, k) / math.sqrt(8 // heads))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bnij,bjnd->bind", weights, v).reshape(2, 12, 8)
    expected = h + (mixed @ p["out"]["kernel"] + p["out"]["bias"]).reshape(h.shape)
    np.testing.assert_allclose(quick_jit(attention.apply)(params, jnp.asarray(h)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scores", [1, 7 * 20, 8 * 20, 24 * 20])
def test_attention_part_by_part_is_attention(scores, monkeypatch):
    """Values and gradients, whatever the parts: 24 queries one by one, by 6 and 8 (7 does not divide 24), and whole."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, size, 3, 8)) for key, size in zip(keys, (24, 20, 20), strict=True))
    of = lambda attend: jax.value_and_grad(lambda *qkv: jnp.sum(attend(*qkv) ** 2), (0, 1, 2))(q, k, v)  # noqa: E731
    expected = of(jax.nn.dot_product_attention)
    monkeypatch.setattr(blocks, "MAX_SCORES", scores)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), of(blocks.attend), expected)
    # And all scores are there at once only where they may be, on the way back, too.
    program = str(jax.make_jaxpr(jax.grad(lambda *qkv: jnp.sum(blocks.attend(*qkv) ** 2)))(q, k, v))
    largest = max(math.prod(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", program))
    assert (largest >= 2 * 3 * 24 * 20) == (scores == 24 * 20)


def test_attention_heads_must_divide_the_channels():
    h = jnp.zeros((1, 2, 2, 8))
    for fields in ({"num_heads": 3}, {"head_dim": 3}, {"head_dim": 16}):
        with pytest.raises(ValueError, match="do not divide"):
            SelfAttention(**fields).init(jax.random.key(0), h)


def test_groups_divide_the_channels_and_keep_more_than_one_channel():
    for channels in range(1, 600):
        groups = num_groups(channels)
        assert channels % groups == 0 and groups <= 32
        assert channels // groups >= min(4, channels)
    assert num_groups(192) == num_groups(256) == 32


def test_sizes_that_do_not_halve_are_refused():
    net = unet.UNet(out_channels=1, **{**SMALL, "channel_multipliers": (1, 1, 1)})
    with pytest.raises(UserError, match="6 x 8 inputs are not divisible by 4"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 6, 8, 1)), jnp.zeros(1), {})
    with pytest.raises(UserError, match="dtype"):
        bad = net.clone(dtype="float8")
        jax.eval_shape(bad.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), {})


def test_lists_from_json_are_tuples_and_modules_hash():
    net = unet.UNet(out_channels=1, **SMALL)
    assert net.channel_multipliers == (1, 2) and net.attention_resolutions == (2,)
    assert hash(net) == hash(net.clone())
