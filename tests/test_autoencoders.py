"""Autoencoders of latents against diffusers, with random weights, and their laws. What diffusers says is kept in
fixtures/autoencoders.npz, which test_peers_autoencoders.py writes and checks."""

import functools
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from configs import digits_stage2, digits_teacher
from guided_distill import codecs, data, files, latents, rounds, runs, stages, state, torch_weights, train_step, trainer
from guided_distill.codecs import _latent, kl_vae, vq_vae
from guided_distill.errors import UserError
from guided_distill.generate import Generator
from guided_distill.layers import autoencoder, tiles
from guided_distill.layers.autoencoder import CodebookAutoencoder, GaussianAutoencoder, Moments
from guided_distill.prediction import from_x

FIXTURE = Path(__file__).parent / "fixtures" / "autoencoders.npz"


def blocks(*channels, **more):
    """A config.json with this number of levels."""
    ways = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    return {"block_out_channels": list(channels), **{key: value * len(channels) for key, value in ways.items()}, **more}


KL, VQ = {"_class_name": "AutoencoderKL"}, {"_class_name": "VQModel"}
SMALL = {"norm_num_groups": 4, "layers_per_block": 2}
CASES = {
    "kl": blocks(8, 8, 16, **KL, **SMALL),
    "bare": blocks(
        8, 16, **KL, norm_num_groups=2, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    ),
    "vq": blocks(8, 16, **VQ, **SMALL, num_vq_embeddings=24, vq_embed_dim=5),
}
REAL = {
    "stable-diffusion": blocks(128, 256, 512, 512, **KL, layers_per_block=2),
    "ldm-f4": blocks(128, 256, 512, **VQ, layers_per_block=2, num_vq_embeddings=8192),
}
KINDS = {"AutoencoderKL": GaussianAutoencoder, "VQModel": CodebookAutoencoder}


@functools.cache
def layout(case):
    """{name: shape} of diffusers' model."""
    return json.loads(str(np.load(FIXTURE)[f"{case}/layout"]))


def random_weights(shapes):
    """{name: array}. Matrices keep what they are given of one size, so that every layer has its say; of a Gaussian's
    logarithms of variances, two are beyond where they are cut off."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        drawn = rng.standard_normal(shape)
        if len(shape) < 2:
            drawn = 0.2 * drawn + ("norm" in name and name.endswith("weight"))
        elif "embedding" not in name:
            drawn = drawn / math.sqrt(np.prod(shape[1:]))
        weights[name] = np.asarray(drawn, np.float32)
    if "quantize.embedding.weight" not in weights and "quant_conv.bias" in weights:
        weights["quant_conv.bias"][-2:] = -40, 40
    return weights


def write(folder, case, shapes=None, old=False, **config):
    """A folder as diffusers writes it, or wrote it before 2023. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(shapes or layout(case))
    if old:
        names = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
        for new, before in names.items():
            weights = {re.sub(rf"\.{new}\.", f".{before}.", name): array for name, array in weights.items()}
    save_file(weights, folder / _latent.FILE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CASES[case] | config))
    return folder


def images_of(case):
    """Two images, wider than high."""
    return np.random.default_rng(1).uniform(-1, 1, (2, 8, 16, 3)).astype(np.float32)


def latents_of(case):
    """Two latents."""
    channels = 5 if case == "vq" else 4
    return np.random.default_rng(2).standard_normal((2, 4, 6, channels)).astype(np.float32)


def everything(folder, case):
    """{name: array} that the network says of the inputs of a case."""
    images, z = jnp.asarray(images_of(case)), jnp.asarray(latents_of(case))
    module = vq_vae if case == "vq" else kl_vae
    held = module.load(folder, scale=1.0)
    found = {"decoded": raw_decode(held, z)}
    if case == "vq":
        found["latents"] = held.encode(images)
        found["unrounded"] = raw_decode(module.load(folder, quantize=False), z)
    else:
        moments = held.moments(images)
        found |= {"mean": moments.mean, "logvar": moments.logvar, "kl": moments.kl()}
    return {key: np.asarray(value) for key, value in found.items()}


def raw_decode(held, z):
    """Images of latents that are not scaled, not clipped."""
    return jax.jit(functools.partial(held.network.apply, method="decode"))({"params": held.params}, z)


def drawn_for(network):
    """Random weights of a network, without the compiler's help."""
    images = jnp.zeros((1, network.factor, network.factor, network.in_channels))
    shapes, rng = jax.eval_shape(network.init, jax.random.key(0), images)["params"], np.random.default_rng(0)
    size = lambda leaf: 0.5 / math.sqrt(math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.5  # noqa: E731
    return jax.tree.map(lambda leaf: np.float32(size(leaf) * rng.standard_normal(leaf.shape)), shapes)


def assert_close(found, expected, tolerance=2e-5):
    """To `tolerance` of the largest value."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoders")
    return {case: write(root / case, case) for case in CASES}


@pytest.fixture(scope="session")
def images():
    return jnp.asarray(images_of("kl"))


# Beside diffusers.


@pytest.mark.parametrize("case", CASES)
def test_networks_are_those_of_diffusers(case, folders):
    found, expected = everything(folders[case], case), np.load(FIXTURE)
    for key, value in found.items():
        assert np.abs(value).max() > 0.1
        assert_close(value, expected[f"{case}/{key}"])


@pytest.mark.parametrize(("case", "keys", "size"), [("stable-diffusion", 248, 83_653_863), ("ldm-f4", 205, 55_322_782)])
def test_real_sizes_have_the_arrays_of_diffusers(case, keys, size):
    kind, config = KINDS[REAL[case]["_class_name"]], REAL[case]
    network = kind(**_latent.described(kind, config, Path("config.json")))
    side = network.factor
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    found = {name: list(array.shape) for name, array in torch_weights.to_torch(zeros).items()}
    assert found == layout(case) and len(found) == keys
    assert sum(math.prod(shape) for shape in found.values()) == size
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == size
    code = _latent.Latents(network, {}, 1.0, 0.0).codec()
    assert code.shape((512, 512, 3)) == (512 // side, 512 // side, network.code_channels)
    assert not code.clip


@pytest.mark.parametrize("case", CASES)
def test_export_and_import_are_bit_equal(case, folders, tmp_path):
    module = vq_vae if case == "vq" else kl_vae
    held = module.load(folders[case])
    config, arrays = module.to_diffusers(held.network, held.params, held.scale)
    given = random_weights(layout(case))
    assert set(arrays) == set(given) and all(np.array_equal(arrays[name], given[name]) for name in given)
    assert {key: config[key] for key in CASES[case]} == CASES[case]
    module.save(tmp_path / "saved", held.network, held.params, scale=0.5)
    again = module.load(tmp_path / "saved")
    assert (again.network, again.scale, again.shift) == (held.network, 0.5, 0.0)
    jax.tree.map(np.testing.assert_array_equal, again.params, held.params)
    assert all(
        np.array_equal(array, given[name]) for name, array in load_file(tmp_path / "saved" / _latent.FILE).items()
    )


def test_old_names_of_attention_are_understood(folders, tmp_path):
    old = write(tmp_path / "old", "kl", old=True)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in load_file(old / _latent.FILE)
    jax.tree.map(np.testing.assert_array_equal, kl_vae.load(old).params, kl_vae.load(folders["kl"]).params)
    oldest = load_file(old / _latent.FILE)
    for name, array in oldest.items():
        if ".attentions." in name and array.ndim == 2:
            oldest[name] = array[:, :, None, None]
    save_file(oldest, old / _latent.FILE)
    jax.tree.map(np.testing.assert_array_equal, kl_vae.load(old).params, kl_vae.load(folders["kl"]).params)


@pytest.mark.parametrize(
    "network",
    [
        GaussianAutoencoder(block_out_channels=(32, 64), layers_per_block=2, latent_channels=6, use_quant_conv=False),
        GaussianAutoencoder(1, 1, (32,), mid_block_add_attention=False, use_post_quant_conv=False),
        CodebookAutoencoder(block_out_channels=(32, 32, 64), num_vq_embeddings=9, vq_embed_dim=2),
    ],
)
def test_a_lone_file_tells_its_network(network, tmp_path):
    module = kl_vae if isinstance(network, GaussianAutoencoder) else vq_vae
    module.save(tmp_path, network, drawn_for(network))
    alone = (tmp_path / _latent.FILE).rename(tmp_path / "alone.safetensors")
    (tmp_path / "config.json").unlink()
    found = module.load(alone)
    assert (found.network, found.scale, found.shift) == (network, 0.18215, 0.0)


# Moments and scales.


def test_codes_are_means_and_with_a_key_draws(folders, images):
    held = kl_vae.load(folders["bare"])
    moments = held.moments(images)
    np.testing.assert_allclose(held.encode(images), moments.mean * 0.18215, rtol=1e-5, atol=1e-6)
    drawn, key = held.encode(images, jax.random.key(3)), jax.random.key(3)
    np.testing.assert_allclose(drawn, held.scaled(moments.sample(key)), rtol=1e-5, atol=1e-6)
    assert not codecs.load("kl_vae", weights=str(folders["bare"])).draws
    assert codecs.load("kl_vae", weights=str(folders["bare"]), sample=True).draws


def test_draws_have_the_moments():
    rng = np.random.default_rng(0)
    mean, logvar = (jnp.asarray(rng.standard_normal((2, 3, 4, 4)), jnp.float32) for _ in range(2))
    drawn = np.asarray(jax.vmap(Moments(mean, logvar).sample)(jax.random.split(jax.random.key(0), 4000)))
    error = np.exp(np.asarray(logvar) / 2) / math.sqrt(4000)
    assert np.abs((drawn.mean(0) - np.asarray(mean)) / error).max() < 4.5
    assert np.abs(drawn.std(0) / np.exp(np.asarray(logvar) / 2) - 1).max() < 4.5 / math.sqrt(2 * 4000)


def test_logarithms_of_variances_are_cut_off(folders, images):
    logvar = np.asarray(kl_vae.load(folders["kl"]).moments(images).logvar)
    assert logvar.min() == -30 and logvar.max() == 20
    assert np.ptp(logvar[..., 0]) > 0.1


def test_kl_is_that_of_gaussians():
    mean, std = np.float32([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), np.float32([[1.0, 1.0], [1.0, 1.0], [0.5, 3.0]])
    grid = np.linspace(-40, 40, 400_001)
    expected = []
    for row in zip(mean, std, strict=True):
        p = [np.exp(-(((grid - m) / s) ** 2) / 2) / s / math.sqrt(2 * math.pi) for m, s in zip(*row, strict=True)]
        terms = [
            np.where(q > 0, q * (np.log(np.maximum(q, 1e-300)) + grid**2 / 2 + math.log(2 * math.pi) / 2), 0) for q in p
        ]
        expected.append(sum(np.trapezoid(term, grid) for term in terms))
    found = Moments(jnp.asarray(mean), 2 * jnp.log(jnp.asarray(std))).kl()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("case", ["bare", "vq"])
def test_scale_and_shift_are_undone(case, folders, images):
    module = vq_vae if case == "vq" else kl_vae
    plain, scaled = (
        codecs.load(f"{module.__name__.split('.')[-1]}", weights=str(folders[case]), scale=s, shift=t)
        for s, t in ((1.0, 0.0), (0.4, 0.7))
    )
    z = plain.encode(images)
    np.testing.assert_allclose(scaled.encode(images), (z - 0.7) * 0.4, atol=1e-5)
    np.testing.assert_allclose(scaled.decode(scaled.encode(images)), plain.decode(z), atol=1e-4)
    assert float(jnp.abs(plain.decode(z)).max()) <= 1


def test_scale_and_shift_are_the_files_own(folders, tmp_path):
    own = write(tmp_path / "own", "kl", scaling_factor=1.5305, shift_factor=0.0609)
    found = [
        (held.scale, held.shift) for held in (kl_vae.load(own), kl_vae.load(own, 2.0), kl_vae.load(own, None, 0.0))
    ]
    assert found == [(1.5305, 0.0609), (2.0, 0.0609), (1.5305, 0.0)]
    assert (kl_vae.load(folders["kl"]).scale, kl_vae.load(folders["kl"]).shift) == (0.18215, 0.0)


def test_a_wrong_scale_is_told_with_the_right_one():
    z = np.random.default_rng(0).standard_normal((4, 8, 8, 4)).astype(np.float32)
    z /= z.std()
    for deviation in (0.35, 1.0, 2.9):
        latents.require_scale(deviation * z)
    with pytest.raises(UserError, match=r"deviation of 5, .* take a scale 0\.2 times as large"):
        latents.require_scale(5 * z)
    with pytest.raises(UserError, match=r"deviation of 0\.1, .* take a scale 10 times as large"):
        latents.require_scale(0.1 * z)
    for broken in (0 * z, np.full((2, 2), np.nan, np.float32)):
        with pytest.raises(UserError, match="they are broken"):
            latents.require_scale(broken)


def test_the_loss_is_reconstruction_and_divergence():
    images, restored = jnp.zeros((2, 2, 2, 1)), jnp.asarray([0.0, 0.5])[:, None, None, None] * jnp.ones((1, 2, 2, 1))
    moments = Moments(jnp.asarray([0.0, 2.0])[:, None], jnp.zeros((2, 1)))
    for power, expected in ((1, [0.0, 4 * 0.5 + 0.1 * 2]), (2, [0.0, 4 * 0.25 + 0.1 * 2])):
        found = autoencoder.gaussian_loss(images, restored, moments, kl_weight=0.1, power=power)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(UserError, match="unknown power 3"):
        autoencoder.gaussian_loss(images, restored, moments, power=3)


@pytest.mark.slow
def test_an_autoencoder_learns_what_images_have_in_common(tmp_path):
    """Images of one shade: two latents for 16 pixels are enough."""
    network = GaussianAutoencoder(1, 1, (4, 4, 4), latent_channels=2, norm_num_groups=2, mid_block_add_attention=False)
    params, tx = drawn_for(network), optax.adam(1e-2)

    def loss(params, images, key):
        return jnp.mean(autoencoder.gaussian_loss(images, *network.apply({"params": params}, images, key), 1e-3, 2))

    @jax.jit
    def train(carry, key):
        images = jax.random.uniform(key, (16, 1, 1, 1), minval=-0.9, maxval=0.9) * jnp.ones((1, 8, 8, 1))
        value, slope = jax.value_and_grad(loss)(carry[0], images, key)
        updates, moments = tx.update(slope, carry[1])
        return (optax.apply_updates(carry[0], updates), moments), value

    keys = jax.random.split(jax.random.key(0), 300)
    (params, _), losses = jax.lax.scan(train, (params, tx.init(params)), keys)
    assert float(losses[-20:].mean()) < 0.05 * float(losses[:5].mean())
    kl_vae.save(tmp_path, network, params, scale=1.0)
    code, shades = codecs.load("kl_vae", weights=str(tmp_path)), jnp.linspace(-0.8, 0.8, 5)[:, None, None, None]
    found = code.decode(code.encode(shades * jnp.ones((1, 8, 8, 1))))
    np.testing.assert_allclose(found.mean((1, 2, 3)), shades[:, 0, 0, 0], atol=0.15)


# The codebook.


def test_latents_are_rounded_to_the_nearest_code_and_gradients_pass():
    rng = np.random.default_rng(0)
    z, codes = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 3, 4, 3), (50, 3)))
    distances = np.linalg.norm(np.asarray(z)[..., None, :] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(autoencoder.nearest(z, codes), distances.argmin(-1))
    book, params = autoencoder.Codebook(50, 3), {"params": {"embedding": {"embedding": codes}}}
    np.testing.assert_allclose(book.apply(params, z), codes[distances.argmin(-1)], atol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(book.apply(params, x))))(z)
    np.testing.assert_allclose(slope, jnp.cos(book.apply(params, z)), atol=1e-6)


# Tiles.


def blurred(z):
    """Looks one latent pixel far; each becomes 4 x 4."""
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 2, 3)), jnp.float32)
    y = jax.lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.repeat(jnp.repeat(y, 4, axis=1), 4, axis=2)


@pytest.mark.parametrize(("height", "width", "tile"), [(13, 30, 8), (8, 20, 8), (5, 21, 12), (12, 12, 12), (9, 9, 20)])
def test_tiles_are_the_plain_decode_away_from_seams(height, width, tile):
    z = jnp.asarray(np.random.default_rng(1).standard_normal((2, height, width, 2)), jnp.float32)
    whole, parts = blurred(z), jax.jit(tiles.tiled, static_argnums=(0, 2))(blurred, z, tile)
    off = np.abs(np.asarray(whole - parts)).max((0, 3))
    covers = []
    for length in (height, width):
        side, cover = min(tile, length), np.zeros(length, int)
        for start in tiles.starts(length, side):
            cover[start : start + side] += 1
        assert cover.min() >= 1
        covers.append(cover)
    alone = np.repeat(np.repeat((covers[0][:, None] == 1) & (covers[1][None] == 1), 4, 0), 4, 1)
    assert alone.any() and off[alone].max() < 1e-5
    assert (off.max() < 1e-5) == (alone.all())
    if max(height, width) <= tile:
        np.testing.assert_array_equal(whole, parts)


def test_seams_are_smooth():
    """Tiles that each have a shade of their own, the worst case: no step is larger than a ramp's."""

    def shaded(z):
        return jnp.broadcast_to(z.mean((1, 2), keepdims=True), z.shape).repeat(8, 1).repeat(8, 2)

    z = jnp.asarray(np.arange(24.0)[None, None, :, None] * np.ones((1, 8, 1, 1)), jnp.float32)
    made = np.asarray(tiles.tiled(shaded, z, 8))[0, :, :, 0]
    assert np.ptp(made[:, 0]) < 1e-5 and np.ptp(made[0]) > 10
    steps = np.diff(made[0])
    shared = 8 * (8 // 4)
    assert steps.min() > -1e-5 and steps.max() < 3 * 8 / shared
    constant = np.asarray(tiles.tiled(blurred, 0 * z[..., [0, 0]], 8))
    assert np.ptp(constant) == 0


def test_tiles_of_a_codec(folders):
    z = jnp.asarray(np.random.default_rng(1).standard_normal((1, 6, 9, 4)), jnp.float32)
    whole, tiled, small = (codecs.load("kl_vae", weights=str(folders["bare"]), tile=tile) for tile in (0, 4, 9))
    assert tiled.decode(z).shape == whole.decode(z).shape == (1, 12, 18, 3)
    np.testing.assert_array_equal(small.decode(z), whole.decode(z))
    assert 1e-3 < float(jnp.abs(tiled.decode(z) - whole.decode(z)).mean()) < 1


# What is refused.


def test_wrong_images_are_refused(folders):
    code = codecs.load("kl_vae", weights=str(folders["kl"]))
    assert code.shape((8, 16, 3)) == (2, 4, 4)
    for shape, message in (
        ((10, 8, 3), "10 x 8 do not divide by 4"),
        ((8, 8, 1), "takes images"),
        ((8, 8), "takes images"),
    ):
        with pytest.raises(UserError, match=message):
            code.shape(shape)
    with pytest.raises(UserError, match="10 x 8 do not divide by 4"):
        code.encode(jnp.zeros((1, 10, 8, 3)))
    with pytest.raises(UserError, match="no moments"):
        vq_vae.load(folders["vq"]).moments(jnp.zeros((1, 8, 8, 3)))


def test_wrong_files_are_refused(folders, tmp_path):
    def told(message, weights, module=kl_vae, **arguments):
        with pytest.raises(UserError, match=message):
            module.load(weights, **arguments)

    for module in (kl_vae, vq_vae):
        told("has no weights; give the folder", "", module)
    told("no weights at", tmp_path / "nowhere")
    told("did you mean .*vae", write(tmp_path / "pipeline" / "vae", "kl").parent)
    told("there is no diffusion_pytorch_model", tmp_path)
    told("is a VQModel, not a AutoencoderKL; take codec 'vq_vae'", folders["vq"])
    told("AttnDownEncoderBlock2D", write(tmp_path / "a", "kl", down_block_types=["AttnDownEncoderBlock2D"] * 3))
    told("unknown act_fn", write(tmp_path / "b", "kl", act_fn="gelu"))
    told("not the weights .* missing: decoder", write(tmp_path / "c", "kl", layers_per_block=3))
    told("not expected: ", write(tmp_path / "d", "kl", mid_block_add_attention=False))
    told("of another shape: ", write(tmp_path / "e", "kl", latent_channels=3))
    told("do not divide into norm_num_groups", write(tmp_path / "f", "kl", norm_num_groups=5))
    told("scales every channel by itself", write(tmp_path / "g", "kl", latents_mean=[0.0] * 4, latents_std=[1.0] * 4))
    assert kl_vae.load(tmp_path / "g", scale=0.5, shift=0.0).scale == 0.5
    told("scale 0 ", folders["kl"], scale=0.0)
    told("tile 3 is not 0", folders["kl"], tile=3)
    told("these are not the weights that were trained with", folders["kl"], sha256="0" * 64)
    told("these are not the weights that were trained with", folders["vq"], vq_vae, sha256="0" * 64)
    told("unknown dtype", folders["kl"], dtype="float16")
    lone = tmp_path / "lone.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, lone)
    told("no encoder and decoder", lone)
    save_file(random_weights(layout("kl")), lone)
    told("no codebook", lone, vq_vae)
    with pytest.raises(UserError, match="cannot be written"):
        vq_vae.to_diffusers(CodebookAutoencoder(), {}, 1.0, shift=0.5)
    with pytest.raises(UserError, match=r"codec kl_vae: .*unexpected"):
        codecs.load("kl_vae", weights="x", scales=1.0)


def test_bfloat16_is_close_and_images_are_float32(folders, images):
    exact, coarse = (
        codecs.load("kl_vae", weights=str(folders["bare"]), dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    z = exact.encode(images)
    assert coarse.encode(images).dtype == coarse.decode(z).dtype == jnp.float32
    assert 0 < float(jnp.abs(coarse.encode(images) - z).max()) < 0.05 * float(jnp.abs(z).max())


# In compiled programs.


def constants(program, *arguments):
    """Numbers that a traced program holds itself."""
    return sum(np.size(constant) for constant in jax.make_jaxpr(program)(*arguments).consts)


def test_weights_are_arguments_of_programs(folders, images):
    code = codecs.load("kl_vae", weights=str(folders["bare"]))
    z = code.encode(images)
    size = sum(leaf.size for leaf in jax.tree.leaves(code.weights))
    for call, x in (("encode", images), ("decode", z)):
        assert constants(getattr(code, call), x) >= size / 4  # One tower: what this test is there to find.
        bound = jax.jit(lambda weights, x, call=call: getattr(code.bind(weights), call)(x))
        assert constants(bound, code.weights, x) < 100
        np.testing.assert_allclose(bound(code.weights, x), getattr(code, call)(x), atol=1e-5)
        doubled = jax.tree.map(lambda leaf: 2 * leaf, code.weights)
        assert float(jnp.abs(bound(doubled, x) - bound(code.weights, x)).max()) > 1e-2
    plain = codecs.load("pixel")
    assert plain.weights is None and plain.bind(None) is plain


def test_generation_decodes_by_weights_that_are_arguments(folders):
    code = codecs.load("kl_vae", weights=str(folders["bare"]))
    generator = Generator(lambda params: lambda z, logsnr, cond: from_x(params + 0 * z, z, logsnr), code, clip=False)
    z = np.random.default_rng(0).standard_normal((3, 4, 4, 4)).astype(np.float32)
    target = np.random.default_rng(1).standard_normal((1, 4, 4, 4)).astype(np.float32)
    grid = jnp.asarray([-5.0, 0.0, jnp.inf])
    found = generator(target, "ddim", z, {}, grid, seed=0, indices=np.arange(3), batch_size=2)
    np.testing.assert_allclose(found, np.repeat(code.decode(jnp.asarray(target)), 3, axis=0), atol=1e-4)


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """An autoencoder of 8 x 8 images, untrained, and the config of a teacher in its latent space."""
    folder = tmp_path_factory.mktemp("greys") / "vae"
    network = GaussianAutoencoder(1, 1, (4, 8), latent_channels=2, norm_num_groups=2, mid_block_add_attention=False)
    kl_vae.save(folder, network, drawn_for(network), scale=0.8)
    config = digits_teacher.get_config("tiny")
    config.codec = {"name": "kl_vae", "weights": str(folder), "sample": True}
    config.network.channel_multipliers, config.network.attention_resolutions = (1,), ()
    return folder, config


def test_a_stage_in_latent_space_holds_the_weights_in_its_state(greys):
    folder, config = greys
    stage = stages.build(config.to_dict())
    assert (stage.manifest["code_shape"], stage.manifest["clip"]) == ([4, 4, 2], False)
    assert stage.manifest["codec"] == {**config.codec, "sha256": files.sha256(folder / _latent.FILE)}
    batch = next(data.batches(stage.source, 8, 0))
    current = stage.abstract()
    held, leaves = kl_vae.load(folder), stage.leaves(stage.layout())
    jax.tree.map(np.testing.assert_array_equal, leaves, {"codec": held.params})
    assert jax.tree.structure(current.teacher) == jax.tree.structure(leaves)
    assert constants(stage.steps[0], current, batch) < 1000
    params = {"student": {"w": jnp.ones(2)}}
    after = state.promote(state.create(params, leaves, optax.sgd(1.0), False), optax.sgd(1.0))
    jax.tree.map(np.testing.assert_array_equal, after.teacher, leaves | {"teacher": params["student"]})


def test_training_draws_codes_with_the_updates_key(greys):
    code, keys = codecs.load("kl_vae", weights=str(greys[0]), sample=True), []

    def spy(x, key):
        keys.append(jax.random.key_data(key).tolist())
        return code.encode(x, key)

    of = train_step.Ingredients(None, None, None, spy, None, None, rounds.Rounds((0,), (1,)), 0, draws=True)
    batch = {"x": jnp.asarray(images_of("kl"))[:, :, :, :1]}
    first, again, other = (train_step.prepare(of, batch, jnp.int32(draw))["x"] for draw in (0, 0, 1))
    assert keys[0] == keys[1] != keys[2]
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).min()) > 0


@pytest.mark.slow
def test_a_chain_in_latent_space_is_trained_and_sampled(greys, tmp_path):
    say = lambda *_: None  # noqa: E731
    run = runs.load(trainer.run(greys[1].to_dict(), tmp_path / "teacher", say=say))
    found = run.sample(3, steps=2, guidance=0.0)
    assert found.shape == (3, 8, 8, 1) and np.abs(found).max() <= 1 and found.std() > 0
    assert run.encode(found, steps=2).shape == (3, 4, 4, 2)
    config = digits_stage2.get_config("tiny,unguided")
    config.teacher, config.batch_size = str(tmp_path / "teacher"), 8
    student = runs.load(trainer.run(config.to_dict(), tmp_path / "student", say=say))
    assert student.sample(3, steps=1).shape == (3, 8, 8, 1)
