"""The U-Nets of latent diffusion against diffusers, with random weights, and their laws. What diffusers says is kept in
fixtures/latent_unet.npz, which test_peers_latent_unet.py writes and checks."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from guided_distill.errors import UserError
from guided_distill.layers import latent_blocks
from guided_distill.models import latent_unet

FIXTURE = Path(__file__).parent / "fixtures" / "latent_unet.npz"
CONTEXT, CLASSES = 12, 5
SMALL = {"norm_num_groups": 8, "cross_attention_dim": CONTEXT, "layers_per_block": 1}
CASES = {
    "sd1": {"block_out_channels": [16, 32], "attended": [1, 0], "attention_head_dim": 2},
    "sd2": {
        "block_out_channels": [16, 32],
        "attended": [1, 0],
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "layers_per_block": 2,
        "time_cond_proj_dim": 10,
    },
    "inpainting": {"block_out_channels": [16], "attended": [1], "in_channels": 9, "time_cond_proj_dim": 256},
    "editing": {"block_out_channels": [16], "attended": [1], "in_channels": 8, "num_class_embeds": CLASSES + 1},
    "ldm": {
        "block_out_channels": [16, 48],
        "attended": [0, 1],
        "attention_head_dim": 1,
        "in_channels": 3,
        "out_channels": 3,
        "time_cond_proj_dim": 16,
    },
}
"""config.json of a small network each; in "ldm" the text is a table's row for the label."""


def config_of(case):
    """As diffusers has it."""
    config = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "attention_head_dim": 2} | SMALL | CASES[case]
    kinds = ["CrossAttn" * attends for attends in config.pop("attended")]
    config["down_block_types"] = [f"{kind}DownBlock2D" for kind in kinds]
    config["up_block_types"] = [f"{kind}UpBlock2D" for kind in kinds[::-1]]
    return config


INTO_NORMS = ("conv_in", "conv1", "time_emb_proj", "conv2", "proj_in", "to_out", "net.2", "net_2")


def random_weights(layout):
    """{key: shape} -> {key: array}, nothing of it zero. Matrices keep what they are given of one size, so that every
    layer has its say; but what is normed is small, so that the norms' epsilons have theirs."""
    rng, weights = np.random.default_rng(0), {}
    for key, shape in sorted(layout.items()):
        drawn = rng.standard_normal(shape)
        if "norm" in key:
            drawn = 0.2 * drawn + key.endswith(("weight", "scale"))
        elif "class" not in key:
            drawn = drawn / math.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2 * drawn
        weights[key] = np.asarray(0.1 * drawn if any(name in key for name in INTO_NORMS) else drawn, np.float32)
    return weights


def inputs_of(case):
    """z, time, cond. w is small, since float32 has few digits left of the sine of 1000 w."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2, 8, 8, config_of(case)["in_channels"])).astype(np.float32)
    text = rng.standard_normal((2, 7, CONTEXT)).astype(np.float32)
    labels = np.array([3, CLASSES])
    if case == "ldm":
        text = table()[labels][:, None]
    cond = {"text": text, "label": labels, "guidance": np.array([0.0, 0.0125], np.float32)}
    return z, np.array([981.0, 37.5], np.float32), cond


def table():
    """LDM's classes."""
    return np.random.default_rng(2).standard_normal((CLASSES + 1, CONTEXT)).astype(np.float32)


def write(folder, case, layout, **changed):
    """A folder as diffusers writes it, with the arrays of a layout. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(case) | changed))
    save_file(random_weights(layout), folder / latent_unet.FILE)
    return folder


def quick_jit(function):
    """Compiled fast, for code that runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def compiled(network):
    """(params, z, time, cond) -> output."""
    return quick_jit(lambda params, *arguments: network.apply({"params": params}, *arguments))


def applied(network, params, z, time, cond):
    """The output of a network on numpy's arrays."""
    return np.asarray(compiled(network)(params, z, time, cond))


def options(case):
    """What `load` has to be told."""
    return {"class_tokens": table()} if case == "ldm" else {}


def assert_close(found, expected, tolerance=1e-5):
    """To a part of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_same(found, expected):
    """The same trees, bit for bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@functools.cache
def kept():
    with np.load(FIXTURE) as file:
        return dict(file)


def layout(case):
    """{key: shape} of diffusers' network."""
    keys, sizes = kept()[f"{case}/keys"], kept()[f"{case}/shapes"]
    return {str(key): tuple(int(n) for n in row if n) for key, row in zip(keys, sizes, strict=True)}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("latent_unet")
    return {case: write(root / case, case, layout(case)) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_that_of_diffusers(case, folders):
    network, params, sha256 = latent_unet.load(folders[case], **options(case))
    assert len(sha256) == 64
    found = applied(network, params, *inputs_of(case))
    assert found.dtype == np.float32 and found.std() > 0.1
    assert_close(found, kept()[f"{case}/output"])


@pytest.mark.parametrize("case", CASES)
def test_files_come_back_bit_for_bit(case, folders):
    network, params, _ = latent_unet.load(folders[case], **options(case))
    config, arrays = latent_unet.to_diffusers(network, params, sample_size=8)
    assert_same(arrays, random_weights(layout(case)))
    given = config_of(case)
    assert {key: config[key] for key in given} == given and config["sample_size"] == 8
    assert_same(json.loads(json.dumps(config)), config)
    again, same = latent_unet.from_diffusers(config, arrays, **options(case))
    assert again == network
    assert_same(same, params)


def test_a_file_alone_needs_a_preset(folders, tmp_path, monkeypatch):
    small = {"channels": 16, "channel_multipliers": (1,), "attention_downsampling": (1,), "num_heads": 2}
    small |= {"cross_attention_dim": CONTEXT, "num_res_blocks": 1, "groups": 8}
    monkeypatch.setitem(latent_unet.PRESETS, "small", small)
    for case in ("inpainting", "editing"):
        path = tmp_path / f"{case}.safetensors"
        path.write_bytes((folders[case] / latent_unet.FILE).read_bytes())
        expected, found = latent_unet.load(folders[case]), latent_unet.load(path, "small")
        assert found.network == expected.network and found.sha256 == expected.sha256
        assert_same(found.params, expected.params)
        with pytest.raises(UserError, match=r"no config\.json beside .* sd1, sd2, ldm_imagenet256"):
            latent_unet.load(path)
        with pytest.raises(UserError, match="unknown preset 'sd3'"):
            latent_unet.load(path, "sd3")


@pytest.mark.parametrize(
    ("preset", "channels", "fields", "keys", "millions"),
    [
        ("sd1", 4, {}, 686, 859.5),
        ("sd1", 4, {"embed_guidance": True}, 687, 859.6),
        ("sd2", 4, {}, 686, 865.9),
        ("ldm_imagenet256", 3, {"num_classes": 1000}, 689, 401.4),
    ],
)
def test_presets_have_the_published_size(preset, channels, fields, keys, millions):
    network = latent_unet.Network(out_channels=min(channels, 4), **latent_unet.PRESETS[preset], **fields)
    leaves = jax.tree.leaves(latent_unet.shapes(network, channels))
    assert len(leaves) == keys and all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert round(sum(math.prod(leaf.shape) for leaf in leaves) / 1e6, 1) == millions


# Laws.

TINY = {
    "channels": 8,
    "channel_multipliers": [1],
    "attention_downsampling": [1],
    "cross_attention_dim": CONTEXT,
    "num_heads": 2,
    "num_res_blocks": 0,
    "groups": 4,
    "guidance_dim": 6,
}


def tiny(**fields):
    return latent_unet.Network(**{"out_channels": 2, **TINY, **fields})


def inputs():
    rng = np.random.default_rng(3)
    cond = {"label": np.array([0, CLASSES]), "guidance": np.array([0.5, 4.0], np.float32)}
    cond["text"] = rng.standard_normal((2, 3, CONTEXT)).astype(np.float32)
    return rng.standard_normal((2, 4, 4, 3)).astype(np.float32), np.array([3.0, 936.0], np.float32), cond


def weights_of(network):
    """Random ones, nothing zero."""
    flat = traverse_util.flatten_dict(latent_unet.shapes(network, 3), sep="/")
    return traverse_util.unflatten_dict(random_weights({key: leaf.shape for key, leaf in flat.items()}), sep="/")


def test_time_has_cosines_first_and_reaches_no_last_frequency():
    time = jnp.array([0.0, 2.0, 999.0])
    angles = np.asarray(time, np.float64)[:, None] * 10000.0 ** (-np.arange(3) / 3)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(latent_blocks.time_features(time, 6), expected, atol=1e-4)


def student(**fields):
    """Reads w, and no text, to be compiled fast."""
    return tiny(embed_guidance=True, cross_attention_dim=None, **fields)


def started():
    """Its weights, random but for the projection of w, which is as it starts."""
    params = weights_of(student())
    embedding = params["time_embedding"] | {"cond_proj": {"kernel": np.zeros((6, 8), np.float32)}}
    return params | {"time_embedding": embedding}


@functools.cache
def gradients(remat):
    """Of a student as it starts, and the output."""
    network = student(remat=remat)

    def loss(params, z, time, cond):
        output = network.apply({"params": params}, z, time, cond)
        return jnp.sum(output**2), output

    return quick_jit(jax.grad(loss, has_aux=True))(started(), *inputs())


def test_last_layers_start_at_zero_and_no_others():
    """So that blocks are their skip paths, the network returns zero, and w has no effect."""
    network = tiny(embed_guidance=True, num_classes=CLASSES)

    @quick_jit
    def largest(*arguments):
        flat = traverse_util.flatten_dict(network.init(*arguments)["params"], sep="/")
        kernels = [path for path in flat if path.endswith("kernel")]
        last = ("cond_proj", "conv2", "proj_out", "conv_out")
        zero = {path: flat[path] for path in kernels if path.split("/")[-2] in last}
        other = {path: flat[path] for path in kernels if path.split("/")[-2] in ("linear_1", "conv1", "proj_in")}
        return jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf)), (zero, other))

    zero, other = largest(jax.random.key(0), *inputs())
    assert len(zero) == 1 + 3 + 2 + 1 and not any(zero.values())
    assert len(other) == 1 + 3 + 2 and all(other.values())


def test_w_starts_without_effect_and_can_learn():
    teacher = tiny(cross_attention_dim=None)
    start, (z, time, cond) = started(), inputs()
    embedding = {key: leaf for key, leaf in start["time_embedding"].items() if key != "cond_proj"}
    grads, output = gradients("none")
    assert_close(np.asarray(output), applied(teacher, start | {"time_embedding": embedding}, z, time, cond), 1e-6)
    assert np.all(grads["time_embedding"]["cond_proj"]["kernel"])
    trained = start | {"time_embedding": weights_of(student())["time_embedding"]}
    assert np.abs(applied(student(), trained, z, time, cond) - output).max() > 0.01


@pytest.mark.parametrize("policy", ["dots", "full"])
def test_remat_changes_neither_outputs_nor_gradients(policy):
    for a, b in zip(jax.tree.leaves(gradients("none")), jax.tree.leaves(gradients(policy)), strict=True):
        assert_close(np.asarray(b), np.asarray(a), 1e-4)


def test_a_class_as_token_is_a_text_of_one():
    reads_text, reads_label = tiny(), tiny(num_classes=CLASSES, label_as="token")
    params, (z, time, cond) = weights_of(reads_label), inputs()
    rows = params["class_tokens"]["embedding"]
    assert rows.shape == (CLASSES + 1, CONTEXT)
    text = {"text": rows[cond["label"]][:, None]}
    del cond["text"]
    plain = {key: leaf for key, leaf in params.items() if key != "class_tokens"}
    expected = applied(reads_text, plain, z, time, text)
    np.testing.assert_array_equal(applied(reads_label, params, z, time, cond), expected)
    with_table = tiny(num_classes=CLASSES)
    assert latent_unet.shapes(with_table, 3)["class_embedding"]["embedding"].shape == (CLASSES + 1, 32)


def test_attention_does_not_count_equal_tokens_twice():
    x, context = (jax.random.normal(jax.random.key(k), (2, 5, 8)) for k in (0, 1))
    attention = latent_blocks.Attention(heads=2)

    @quick_jit
    def results(x, context):
        expected, params = attention.init_with_output(jax.random.key(2), x, context)
        others = (jnp.concatenate([context, context[:, ::-1]], axis=1), context[:, :1])
        return expected, *(attention.apply(params, x, other) for other in others)

    expected, twice, one = map(np.asarray, results(x, context))
    np.testing.assert_allclose(twice, expected, atol=1e-6)
    np.testing.assert_allclose(one, np.broadcast_to(one[:, :1], one.shape), atol=1e-6)
    assert np.ptp(expected, axis=1).max() > 1e-3


def test_bfloat16_has_float32_parameters_and_is_close():
    plain, half = student(), student(dtype="bfloat16")
    params, arguments = weights_of(plain), inputs()
    assert latent_unet.shapes(plain, 3) == latent_unet.shapes(half, 3)
    expected, found = (applied(network, params, *arguments) for network in (plain, half))
    assert found.dtype == np.float32
    assert_close(found, expected, 3e-2)
    assert not np.allclose(found, expected, atol=1e-5)


def test_time_and_w_enter_in_float32():
    """936 and 937 are one bfloat16 number."""
    network = student(dtype="bfloat16")
    params, (z, _, cond) = weights_of(network), inputs()
    for time, w, differ in (([936, 937], [1, 1], True), ([936, 936], [1, 1.001], True), ([936, 936], [1, 1], False)):
        out = applied(network, params, z[[0, 0]], np.float32(time), cond | {"guidance": np.float32(w)})
        assert (np.abs(out[0] - out[1]).max() > 1e-3) == differ


@pytest.mark.parametrize(
    ("fields", "missing"),
    [({}, "text"), ({"num_classes": CLASSES}, "label"), ({"embed_guidance": True}, "guidance")],
)
def test_cond_is_required_exactly_where_it_is_read(fields, missing):
    network, (z, time, cond) = tiny(**fields), inputs()
    read = {"text", missing}
    jax.eval_shape(network.init, jax.random.key(0), z, time, {key: cond[key] for key in read})
    with pytest.raises(UserError, match=rf"needs cond\['{missing}'\]"):
        jax.eval_shape(network.init, jax.random.key(0), z, time, {key: cond[key] for key in set(cond) - {missing}})


def test_without_cross_attention_no_text_is_read():
    network, (z, time, _) = tiny(cross_attention_dim=None), inputs()
    flat = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), z, time, {}), sep="/")
    assert any("attn1" in key for key in flat) and not any("attn2" in key for key in flat)
    with pytest.raises(UserError, match="cross_attention_dim"):
        latent_unet.to_diffusers(network, weights_of(network))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channel_multipliers": [1, 1, 1, 1]}, "4 x 4 latents are not divisible by 8"),
        ({"dtype": "float16"}, "unknown dtype 'float16'; valid: float32, bfloat16"),
        ({"remat": "some"}, "unknown remat 'some'"),
        ({"label_as": "text"}, "unknown label_as 'text'; valid: time, token"),
        ({"label_as": "token", "cross_attention_dim": None}, "give cross_attention_dim"),
        ({"attention_downsampling": [1, 3]}, r"attention_downsampling has \[3\]"),
        ({"groups": 3}, "8 channels do not divide into 3 groups"),
        ({"num_heads": 3}, "8 channels do not divide into heads with num_heads=3"),
        ({"num_heads": [2, 2]}, "num_heads has 2 entries"),
        ({"head_dim": 3}, "8 channels do not divide into heads with head_dim=3"),
        ({"cross_attention_dim": CONTEXT + 1}, r"shape \(2, 3, 12\); expected \[b, l, 13\]"),
    ],
)
def test_what_does_not_fit_is_refused(fields, told):
    with pytest.raises(UserError, match=told):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), *inputs())


def test_lists_from_json_are_tuples_and_modules_hash():
    network = tiny(num_heads=[2], channel_multipliers=[1])
    assert network.num_heads == (2,) and hash(network) == hash(tiny(num_heads=(2,)))


# Files of something else.


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"class_embed_type": "projection"}, "class_embed_type='projection'"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False, this network computes flip_sin_to_cos=True only"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ({"only_cross_attention": [True, False]}, "only_cross_attention"),
        ({"center_input_sample": True}, "center_input_sample=True"),
        ({"a_new_option": 3}, "a_new_option=3"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block=\[1, 2\]; expected one number"),
        ({"block_out_channels": [16, 40]}, "expected multiples of the first"),
        ({"attention_head_dim": [2, 2, 2]}, "expected one for each of 2 levels"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "expected .* their mirror image"),
        ({"down_block_types": ["AttnDownBlock2D"] * 2}, "AttnDownBlock2D"),
    ],
)
def test_configs_of_other_computations_are_refused_by_name(entry, told):
    with pytest.raises(UserError, match=told):
        latent_unet.from_diffusers(config_of("sd1") | entry, {})


def test_entries_that_change_nothing_are_accepted():
    """diffusers writes all of its defaults; old files leave most of them out."""
    idle = {"sample_size": 64, "upcast_attention": True, "encoder_hid_dim": None, "dual_cross_attention": False}
    idle |= {"_diffusers_version": "0.6.0", "mid_block_only_cross_attention": None, "norm_eps": 1e-05}
    arrays = random_weights(layout("sd1"))
    found, expected = (latent_unet.from_diffusers(config_of("sd1") | more, arrays)[0] for more in (idle, {}))
    assert found == expected
    fields = {"out_channels": 4, "cross_attention_dim": 1280}
    assert latent_unet._diffusers.described({}, "")[0].items() >= fields.items()


def test_weights_of_something_else_are_refused(tmp_path):
    config, arrays = config_of("sd1"), random_weights(layout("sd1"))
    del arrays["mid_block.resnets.0.conv1.bias"]
    with pytest.raises(UserError, match=r"not the weights of .*missing: mid_block\.resnets\.0\.conv1\.bias"):
        latent_unet.from_diffusers(config, arrays)
    with pytest.raises(UserError, match=r"not expected: time_embedding\.cond_proj\.weight"):
        latent_unet.load(write(tmp_path / "w", "sd2", layout("sd2"), time_cond_proj_dim=None))
    with pytest.raises(
        UserError, match=r"of another shape: conv_in\.weight \[16, 9, 3, 3\] instead of \[16, 4, 3, 3\]"
    ):
        latent_unet.load(write(tmp_path / "z", "inpainting", layout("inpainting"), in_channels=4))
    with pytest.raises(UserError, match=r"no weights at .*diffusion_pytorch_model\.safetensors"):
        latent_unet.load(tmp_path)
    save_file({"model.diffusion_model.out.2.bias": np.zeros(4, np.float32)}, tmp_path / "v1-5.safetensors")
    with pytest.raises(UserError, match=r"is a whole pipeline in one file, .*; make a folder of it"):
        latent_unet.load(tmp_path / "v1-5.safetensors", "sd1")
