"""Schedules, samplers and whole pipelines beside diffusers, in an environment with PyTorch and diffusers."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_diffusers_schedules as tables
import test_interchange as own
from test_peers_latent_unet import diffusers

import guided_distill
from guided_distill import editing, prediction, samplers, schedules
from guided_distill.interchange import export_pipeline, import_pipeline, importing, scheduler
from guided_distill.layers.embeddings import sinusoidal

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "diffusers")), reason="needs torch and diffusers"
    ),
]
MATRIX = 0.3 * np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
"""A linear network."""


def opened(kind, schedule, meant, **changed):
    """A scheduler of diffusers, of our config."""
    config = scheduler.config_of(schedule, meant) | changed
    return getattr(diffusers(), kind).from_config({key: value for key, value in config.items() if key[0] != "_"})


def theirs(stepper, num_steps, z):
    """Where a scheduler goes with the linear network, from z: [num_steps + 1, ...]."""
    import torch

    stepper.set_timesteps(num_steps)
    way, matrix = [torch.tensor(z)], torch.tensor(MATRIX)
    for t in stepper.timesteps:
        way.append(stepper.step(way[-1] @ matrix, t, way[-1], return_dict=False)[0])
    return torch.stack(way).numpy()


def ours(name, schedule, meant, num_steps, z):
    """Where our sampler goes: [num_steps + 1, ...]."""
    return way(samplers.get(name), meant, schedules.grid(schedule, num_steps), z)


def way(step, meant, levels, z):
    """What the network is asked of, step by step, and where it ends."""
    seen, network = [], linear(meant)

    def denoise(z, logsnr, cond):
        seen.append(z)
        return network(z, logsnr, cond)

    with jax.disable_jit():  # So that the scan is a loop.
        end = samplers.sample(jax.random.key(0), denoise, step, jnp.asarray(z), {}, levels)
    return np.stack([*seen, end])


def linear(meant):
    """The linear network, as a denoiser."""
    make = getattr(prediction, f"from_{meant}")
    return lambda z, logsnr, cond: make(z @ MATRIX, z, logsnr)


def assert_close_all_the_way(found, expected):
    assert found.shape == expected.shape
    for here, there in zip(found, expected, strict=True):
        assert_close(here, there)


def assert_close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", tables.KINDS)
def test_tables_are_its_alphas_cumprod(kind):
    expected = opened("DDIMScheduler", tables.KINDS[kind], "v").alphas_cumprod.double().numpy()
    found = tables.alpha_bar(tables.KINDS[kind])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)  # Theirs is a float32 product of 1000.
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 50])
@pytest.mark.parametrize(("kind", "meant"), [("stable-diffusion", "eps"), ("ldm", "v"), ("linear", "x"), ("zero", "v")])
def test_ddim_goes_where_its_does(kind, meant, num_steps, z):
    stepper = opened("DDIMScheduler", tables.KINDS[kind], meant)
    expected = theirs(stepper, num_steps, z)
    indices = np.asarray(schedules.grid(tables.KINDS[kind], num_steps)[:-1])
    found = np.asarray(tables.KINDS[kind].inverse(indices)) * 1000 - 1
    np.testing.assert_allclose(found, stepper.timesteps.numpy(), atol=2e-3)
    assert_close_all_the_way(ours("ddim", tables.KINDS[kind], meant, num_steps, z), expected)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("meant", ["eps", "v"])
def test_dpm_solver_goes_where_its_does(meant, num_steps, z):
    """DPM-Solver++(2M), midpoint, to sigma 0: its last step is of first order, as ours."""
    changed = {"final_sigmas_type": "zero", "algorithm_type": "dpmsolver++", "solver_order": 2}
    stepper = opened("DPMSolverMultistepScheduler", tables.KINDS["ldm"], meant, **changed)
    expected = theirs(stepper, num_steps, z)
    assert_close_all_the_way(ours("dpmpp_2m", tables.KINDS["ldm"], meant, num_steps, z), expected)


@pytest.mark.parametrize(("times", "meant"), [([999], "eps"), ([999, 499], "v"), ([999, 759, 499, 259], "eps")])
def test_lcm_goes_where_its_does(times, meant, z, monkeypatch):
    """At its times, from a list of 50, and with our noise; its c_skip is 3.7e-8 and less there."""
    schedule = tables.KINDS["stable-diffusion"]
    stepper = opened("LCMScheduler", schedule, meant, original_inference_steps=50)
    expected = lcm(stepper, len(times), z, jax.random.key(0), monkeypatch)
    assert stepper.timesteps.tolist() == times
    levels = jnp.append(schedule((jnp.asarray(times) + 1) / schedule.num_timesteps), jnp.inf)
    assert_close_all_the_way(way(samplers.consistency, meant, levels, z), expected)


def lcm(stepper, num_steps, z, key, monkeypatch):
    """Where its LCMScheduler goes, if the noise that it draws is that of our sampler with `key`."""
    import torch
    from diffusers.schedulers import scheduling_lcm

    keys = jax.random.split(key, len(z))
    of_step = lambda k: samplers.per_example_noise(jax.vmap(jax.random.fold_in, (0, None))(keys, k), jnp.asarray(z))  # noqa: E731
    drawn = (torch.tensor(np.asarray(of_step(k))) for k in range(num_steps))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *args, **options: next(drawn))
    return theirs(stepper, num_steps, z)


@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler"])
def test_configs_that_it_writes_are_read(kind, tmp_path):
    given = own.SCHEDULER | {"prediction_type": "v_prediction"}
    given = {key: value for key, value in given.items() if key not in ("_class_name", "clip_sample")}
    getattr(diffusers(), kind)(**given if kind == "PNDMScheduler" else {k: given[k] for k in given if k[:4] == "beta"},
                               **({} if kind == "PNDMScheduler" else {"prediction_type": "v_prediction"})
                               ).save_pretrained(tmp_path)  # fmt: skip
    told = scheduler.described(json.loads((tmp_path / scheduler.FILE).read_text()), kind)
    assert schedules.make("Discrete", **told.schedule) == schedules.Discrete() and told.prediction == "v"


# Whole pipelines.


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioned")
    import_pipeline(own.write_captioned(root / "pipeline"), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def student(captioned, tmp_path_factory):
    """A student of 4 and 2 steps that is told w, and its folder."""
    root = tmp_path_factory.mktemp("student")
    run = own.student(root / "run", captioned, (4,))
    export_pipeline(run, root / "out")
    return run, root / "out"


def test_it_finds_every_key_and_no_other(student):
    from transformers import CLIPTextModel

    run, folder = student
    kinds = {"unet": diffusers().UNet2DConditionModel, "vae": diffusers().AutoencoderKL, "text_encoder": CLIPTextModel}
    for name, kind in kinds.items():
        model, info = kind.from_pretrained(folder, subfolder=name, output_loading_info=True)
        wrong = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        assert not any(info.get(key) for key in wrong), info
        assert name != "unet" or model.config.time_cond_proj_dim == 16
    assert run.manifest["network"]["args"]["guidance_dim"] == 16


def images_of(folder, z, captions, **options):
    """What its pipeline makes of noise [n, h, w, c] and captions, in [-1, 1]."""
    import torch

    pipeline = diffusers().StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.tensor(np.asarray(z)).permute(0, 3, 1, 2)
    return 2 * pipeline(captions, latents=latents, output_type="np", **options).images - 1


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_its_pipeline_makes_the_images_of_a_student(student):
    run, folder = student
    captions, z, before = ["the cat sat", "a cat"], run.noise(2, seed=3), None
    for w in (0.0, 0.25):
        found = run.sample(2, steps=4, guidance=w, prompts=captions, noise=z)
        assert before is None or np.abs(found - before).max() > 1e-2  # So that 1 + w in place of w would show.
        before = found
        expected = images_of(folder, z, captions, num_inference_steps=4, guidance_scale=1 + w)
        assert expected.std() > 0.02
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_its_pipeline_makes_the_images_of_a_teacher(captioned, tmp_path):
    run = guided_distill.load(captioned)
    export_pipeline(run, tmp_path / "out")
    captions, z = ["the cat sat", "a cat"], run.noise(2, seed=3)
    found = run.sample(2, steps=5, guidance=1.5, prompts=captions, noise=z)
    expected = images_of(tmp_path / "out", z, captions, num_inference_steps=5, guidance_scale=2.5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_its_pipeline_makes_the_image_of_a_consistency_model(tmp_path):
    """In one step, in which no noise is drawn."""
    import_pipeline(own.write_consistency(tmp_path / "pipeline"), tmp_path / "run", w_range=(0.0, 4.0))
    run = guided_distill.load(tmp_path / "run")
    export_pipeline(run, tmp_path / "out")
    pipeline = diffusers().StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline.scheduler).__name__ == "LCMScheduler"
    captions, z = ["the cat sat", "a cat"], run.noise(2, seed=3)
    expected = images_of(tmp_path / "out", z, captions, num_inference_steps=1, guidance_scale=2.0)
    assert expected.std() > 0.02
    np.testing.assert_allclose(run.sample(2, 1, 1.0, prompts=captions, noise=z), expected, atol=1e-4)


def shown_an_image(kind, num, root, halved=False):
    """A run of such a pipeline, or a student of 4 steps of it, and the pipeline of what is exported."""
    import_pipeline(own.write_captioned(root / "pipeline", shown=num, kind=kind), root / "run")
    run = own.student(root / "student", root / "run", (4,)) if halved else guided_distill.load(root / "run")
    export_pipeline(run, root / "out")
    pipeline = getattr(diffusers(), kind).from_pretrained(root / "out")
    pipeline.set_progress_bar_config(disable=True)
    return run, pipeline


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
@pytest.mark.parametrize("halved", [False, True], ids=["teacher", "student"])
def test_inpainting_is_its_pipelines(halved, tmp_path, monkeypatch):
    """Under masks of whole latents; its pipeline draws the latents of the image, and here it takes their means."""
    import torch
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    run, pipeline = shown_an_image("StableDiffusionInpaintPipeline", 5, tmp_path, halved)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    images, mask = own.pictures(), editing.centre((own.SIZE, own.SIZE, 3))
    captions, z = ["the cat sat", "a cat"], run.noise(2, seed=3)
    found = editing.inpaint(run, images, mask, 4, guidance=0.25, seed=3, prompts=captions)
    given = {"image": (images + 1) / 2, "mask_image": torch.tensor(np.float32(mask))[None, None]}
    given["latents"] = torch.tensor(np.asarray(z)).permute(0, 3, 1, 2)
    out = pipeline(captions, num_inference_steps=4, guidance_scale=1.25, output_type="np", **given)
    expected = 2 * out.images - 1
    assert expected[:, mask].std() > 0.02
    np.testing.assert_allclose(found[:, mask], expected[:, mask], atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_instructions_are_followed_as_by_its_pipeline(tmp_path):
    import torch

    run, pipeline = shown_an_image("StableDiffusionInstructPix2PixPipeline", 4, tmp_path)
    images, captions, z = own.pictures(), ["the cat sat", "a cat"], run.noise(2, seed=3)
    found = editing.instruct(run, images, captions, 5, 1.5, 0.75, seed=3)
    given = {"image": (images + 1) / 2, "latents": torch.tensor(np.asarray(z)).permute(0, 3, 1, 2)}
    given |= {"guidance_scale": 2.5, "image_guidance_scale": 1.75, "output_type": "np"}
    expected = 2 * pipeline(captions, num_inference_steps=5, **given).images - 1
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("told_w", [True, False], ids=["one evaluation", "two"])
def test_the_code_on_the_card_makes_the_images_of_classes(told_w, tmp_path, monkeypatch):
    """Of the one that diffusers has no pipeline for; its own lines are run."""
    import torch

    fields = {"embed_guidance": True, "guidance_dim": 8} if told_w else {}
    folder = own.write_classes(tmp_path / "pipeline", **fields)
    import_pipeline(folder, tmp_path / "run", w_range=(0.0, 1.0) if told_w else None)
    run = guided_distill.load(tmp_path / "run")
    export_pipeline(run, tmp_path / "out")
    diffusers()
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("3, 4", "0, 2").replace("set_timesteps(50)", "set_timesteps(4)")
    code = re.sub(r"w = (.*), torch.tensor\(.*\)", r"w = \1, torch.tensor([0, 0.25])", code)
    z, w, labels = run.noise(2, seed=1), np.array([0.0, 0.25]), np.array([0, 2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.tensor(np.asarray(z)).permute(0, 3, 1, 2))
    with torch.no_grad():
        exec(code, found := {})
    expected = run.sample(2, steps=4, guidance=w, labels=labels, noise=z)
    np.testing.assert_allclose(found["images"].permute(0, 2, 3, 1).clamp(-1, 1).numpy(), expected, atol=1e-4)
    if told_w:
        assert importing.sidecar(tmp_path / "out")["guidance"]["range"] == [0.0, 1.0]


def test_w_enters_as_in_its_pipeline():
    import torch

    w = torch.tensor([0.0, 0.25, 7.0])
    expected = diffusers().LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, 16).numpy()
    np.testing.assert_allclose(sinusoidal(1000 * jnp.asarray(w.numpy()), 16), expected, atol=1e-3)
