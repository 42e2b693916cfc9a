"""Folders of diffusers -> runs -> folders, with random weights, written here."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_clip
from safetensors.numpy import load_file, save_file

import guided_distill
from configs import laion512_stage1
from guided_distill import (
    __main__,
    channels,
    checkpoint,
    data,
    editing,
    keys,
    latents,
    runs,
    schedules,
    stages,
    state,
    teachers,
    torch_weights,
)
from guided_distill import prediction as predictions
from guided_distill.codecs import kl_vae, vq_vae
from guided_distill.denoiser import Parameterised
from guided_distill.errors import UserError
from guided_distill.interchange import (
    card,
    describing,
    export_pipeline,
    exporting,
    import_pipeline,
    importing,
    scheduler,
)
from guided_distill.layers import transformer
from guided_distill.layers.autoencoder import CodebookAutoencoder, GaussianAutoencoder
from guided_distill.models import latent_unet
from guided_distill.text import clip

SIZE, CLASSES, CONTEXT = 16, 3, 12
LENGTH, TEXT = 6, 8
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "trained_betas": None,
}
UNET = {"channels": 8, "channel_multipliers": (1,), "attention_downsampling": (1,), "num_res_blocks": 1}
UNET |= {"groups": 4, "num_heads": 2}


def drawn(shapes, seed=0):
    """Random parameters, none of them zero; the norms' are about 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        drawn = scale * rng.standard_normal(leaf.shape) + ("scale" in jax.tree_util.keystr(path))
        return np.float32(drawn)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_unet(folder, seed=0, in_channels=4, **fields):
    """unet/ of a pipeline. Returns its parameters."""
    network = latent_unet.Network(**{"out_channels": in_channels, "cross_attention_dim": CONTEXT, **UNET, **fields})
    params = drawn(latent_unet.shapes(network, in_channels), seed)
    config, arrays = latent_unet.to_diffusers(network, params, SIZE // 2)
    write_json(folder / "unet" / "config.json", config)
    save_file(arrays, folder / "unet" / latent_unet.FILE)
    return params


def write_vae(folder, book=False, **changed):
    """vae/ or vqvae/ of a pipeline."""
    sizes = {"block_out_channels": (4, 4), "layers_per_block": 1, "norm_num_groups": 2}
    sizes |= {"mid_block_add_attention": False}
    kind = CodebookAutoencoder if book else GaussianAutoencoder
    network = kind(**sizes, **({"num_vq_embeddings": 16, "vq_embed_dim": 4} if book else {"latent_channels": 4}))
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    target = folder / ("vqvae" if book else "vae")
    (vq_vae if book else kl_vae).save(target, network, drawn(shapes), scale=0.5)
    write_json(target / "config.json", json.loads((target / "config.json").read_text()) | changed)


def write_text(folder):
    """text_encoder/ and tokenizer/ of a pipeline."""
    sizes = {"hidden": 16, "heads": 2, "layers": 1, "width": TEXT, "vocab": len(test_clip.TOKENS), "length": LENGTH}
    tower = clip.TextTower(**sizes, end=test_clip.END, projection=None)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]
    arrays = {f"text_model.{name}": array for name, array in torch_weights.to_torch(drawn(shapes)).items()}
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu"}
    config |= {name: sizes[field] for field, name in (transformer.KEYS | clip.KEYS).items() if field in sizes}
    config |= {"bos_token_id": test_clip.START, "eos_token_id": test_clip.END, "pad_token_id": test_clip.END}
    write_json(folder / "text_encoder" / "config.json", config)
    save_file(arrays, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer").mkdir()
    test_clip.write_vocabulary(folder / "tokenizer")
    said = {"model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer", "pad_token": test_clip.TOKENS[-1]}
    write_json(folder / "tokenizer" / "tokenizer_config.json", said)


def write_captioned(folder, w=False, shown=0, kind="StableDiffusionPipeline", **changed):
    """A pipeline from captions, whose network reads `shown` channels beside latents. Returns its folder."""
    sizes = {"in_channels": 4 + shown, "out_channels": 4}
    write_unet(folder, cross_attention_dim=TEXT, embed_guidance=w, guidance_dim=16, **sizes)
    write_vae(folder)
    write_text(folder)
    write_json(folder / "scheduler" / scheduler.FILE, SCHEDULER | changed)
    index = {
        "_class_name": kind,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    write_json(folder / "model_index.json", index | {"unet": ["diffusers", "UNet2DConditionModel"]})
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# Tiny\n")
    return folder


def write_classes(folder, **fields):
    """A pipeline of classes, which are tokens, as LDM's. Returns its folder."""
    write_unet(folder, **fields)
    write_vae(folder, book=True)
    write_json(folder / "scheduler" / scheduler.FILE, SCHEDULER | {"beta_start": 0.0015, "beta_end": 0.0195})
    table = np.random.default_rng(1).standard_normal((CLASSES + 1, CONTEXT)).astype(np.float32)
    save_file({"weight": table}, folder / importing.TOKENS)
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A pipeline from captions, and the run of it. To be read only."""
    root = tmp_path_factory.mktemp("captioned")
    folder = write_captioned(root / "pipeline")
    import_pipeline(folder, root / "run")
    return folder, root / "run"


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A pipeline of classes, and the run of it. To be read only."""
    root = tmp_path_factory.mktemp("classes")
    folder = write_classes(root / "pipeline")
    import_pipeline(folder, root / "run")
    return folder, root / "run"


# Names of weights.


def trees():
    """Parameters of every family that is read from PyTorch's files."""
    network = latent_unet.Network(
        out_channels=4, cross_attention_dim=CONTEXT, embed_guidance=True, num_classes=2, **UNET
    )
    yield drawn(latent_unet.shapes(network, 4))
    for kind in (GaussianAutoencoder, CodebookAutoencoder):
        network = kind(block_out_channels=(8, 8), norm_num_groups=4)
        yield drawn(jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"])
    tower = clip.TextTower(width=8, layers=2, heads=2, hidden=16, vocab=20, length=5, projection=6)
    yield drawn(jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))["params"])


@pytest.mark.parametrize("params", list(trees()), ids=["u-net", "kl", "vq", "clip"])
def test_names_and_layouts_of_torch_are_undone(params):
    arrays = torch_weights.to_torch(params)
    assert len(arrays) == len(jax.tree.leaves(params)) and all(a.flags.c_contiguous for a in arrays.values())
    assert not any(name.split(".")[-2].isdigit() and ".linear." in name for name in arrays)
    again = torch_weights.to_flax(arrays, jax.eval_shape(lambda: params), "it")
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_digit_is_an_entry_but_for_the_names_that_have_one():
    names = {("layers_0", "fc1", "kernel"): "layers.0.fc1.weight", ("linear_2", "bias"): "linear_2.bias"}
    names |= {("to_out_0", "kernel"): "to_out.0.weight", ("a", "norm1", "scale"): "a.norm1.weight"}
    assert {path: torch_weights.torch_name(path) for path in names} == names


# Import.


def test_an_imported_pipeline_samples(captioned):
    folder, path = captioned
    run = guided_distill.load(path)
    images = run.sample(2, steps=2, guidance=1.0, prompts=["the cat", "sat"], noise=np.ones((2, 8, 8, 4)))
    assert images.shape == (2, SIZE, SIZE, 3) and np.all(np.isfinite(images)) and np.abs(images).max() <= 1
    assert np.abs(images[0] - images[1]).max() > 1e-3
    params = latent_unet.load(folder / "unet").params
    jax.tree.map(np.testing.assert_array_equal, run.weights(), params)
    assert teachers.load(str(path), "", "import").w_range == (0.0, np.inf)


def test_its_manifest_says_what_its_files_say(captioned):
    manifest = runs.read_manifest(captioned[1])
    assert (manifest["prediction"], manifest["time_input"], manifest["trains"]) == ("eps", "index", True)
    assert schedules.make(**manifest["schedule"]) == schedules.Discrete()
    assert manifest["imported"]["licence"] == "creativeml-openrail-m" and len(manifest["imported"]["unet"]) == 64
    assert manifest["codec"]["name"] == "kl_vae" and len(manifest["codec"]["sha256"]) == 64
    assert manifest["text"]["name"] == "clip" and len(manifest["text"]["sha256"]) == 64
    assert manifest["text_shape"] == [LENGTH, TEXT] and manifest["code_shape"] == [8, 8, 4]
    assert manifest["recommended"] == {"steps": 50, "guidance": 6.5}


def test_what_differs_from_their_sampling_is_told(tmp_path, captioned):
    notes = import_pipeline(captioned[0], tmp_path / "run")
    assert len(notes) == 1 and "PNDMScheduler steps with timestep_spacing='leading', set_alpha_to_one=False" in notes[0]
    trailing = SCHEDULER | {"_class_name": "DDIMScheduler", **scheduler.OURS}
    assert scheduler.described(trailing, "it").notes == []
    assert "draws new noise" in scheduler.described(trailing | {"_class_name": "TCDScheduler"}, "it").notes[0]
    lcm = scheduler.described(trailing | {"_class_name": "LCMScheduler", "original_inference_steps": 40}, "it")
    assert lcm.sampler == "consistency" and "takes its times from a list of 40" in lcm.notes[0]
    spaced = scheduler.described(trailing | {"use_karras_sigmas": True, "thresholding": True}, "it").notes
    assert len(spaced) == 2 and "use_karras_sigmas" in spaced[0] and "latents are not clipped" in spaced[1]


def test_a_run_of_other_weights_than_it_came_with_is_refused(tmp_path, captioned):
    shutil.copytree(captioned[1], tmp_path / "run")
    manifest = runs.read_manifest(tmp_path / "run")
    manifest["codec"]["weights"] = str(tmp_path / "run" / "vae")
    weights = tmp_path / "run" / "vae" / latent_unet.FILE
    save_file({name: 2 * array for name, array in load_file(weights).items()}, weights)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="these are not the weights that were trained with"):
        guided_distill.load(tmp_path / "run")


def test_a_folder_of_half_precision_alone_is_read(captioned, tmp_path):
    """diffusers calls its files *.fp16.safetensors."""
    folder = shutil.copytree(captioned[0], tmp_path / "pipeline")
    for file in list(folder.rglob("*.safetensors")):
        save_file(
            {name: np.float16(array) for name, array in load_file(file).items()}, file.with_suffix(".fp16.safetensors")
        )
        file.unlink()
    import_pipeline(folder, tmp_path / "run")
    run, whole = guided_distill.load(tmp_path / "run"), guided_distill.load(captioned[1])
    halved = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), whole.weights())
    jax.tree.map(np.testing.assert_array_equal, run.weights(), halved)
    told = {"prompts": "the cat", "steps": 1, "noise": np.ones((1, 8, 8, 4))}
    np.testing.assert_allclose(run.sample(1, **told), whole.sample(1, **told), atol=0.05)


def test_classes_are_tokens_of_a_table(classes):
    run = guided_distill.load(classes[1])
    assert run.manifest["num_classes"] == CLASSES and run.manifest["text"] is None
    w, labels = np.array([0.0, 1.0, 0.0]), np.array([0, 0, 2])
    images = run.sample(3, steps=2, guidance=w, labels=labels, noise=np.ones((3, 8, 8, 4)))
    assert images.shape == (3, SIZE, SIZE, 3)
    for k in (1, 2):
        assert np.abs(images[k] - images[0]).max() > 1e-3


def test_a_file_alone_is_told_the_rest(tmp_path, classes, monkeypatch):
    small = {**UNET, "cross_attention_dim": CONTEXT}
    monkeypatch.setitem(latent_unet.PRESETS, "small", small)
    folder = classes[0]
    alone = tmp_path / "alone.safetensors"
    shutil.copyfile(folder / "unet" / latent_unet.FILE, alone)
    given = {"scheduler": folder / "scheduler" / scheduler.FILE, "class_tokens": folder / importing.TOKENS}
    given |= {"vae": folder / "vqvae", "preset": "small"}
    with pytest.raises(UserError, match="give resolution=512 or the like"):
        import_pipeline(alone, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    import_pipeline(alone, tmp_path / "run", resolution=SIZE, **given)
    ours, theirs = guided_distill.load(tmp_path / "run"), guided_distill.load(classes[1])
    jax.tree.map(np.testing.assert_array_equal, ours.weights(), theirs.weights())
    assert ours.manifest["schedule"] == theirs.manifest["schedule"]


# Export.


def equal(first, second):
    """Whether two folders have the same files, but for the cards."""
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (first, second)]
    left = [name for name in names[0] if name not in ("README.md", importing.SIDECAR)]
    return names[0] == names[1] and all((first / name).read_bytes() == (second / name).read_bytes() for name in left)


@pytest.mark.parametrize("kind", ["captioned", "classes"])
def test_import_and_export_are_bit_equal(kind, request, tmp_path):
    folder, path = request.getfixturevalue(kind)
    run = guided_distill.load(path)
    assert export_pipeline(run, tmp_path / "out") == []
    given, written = (load_file(f / "unet" / latent_unet.FILE) for f in (folder, tmp_path / "out"))
    assert set(given) == set(written) and all(np.array_equal(given[name], written[name]) for name in given)
    for part in ("vae", "vqvae"):
        file = folder / part / latent_unet.FILE
        assert not file.is_file() or file.read_bytes() == (tmp_path / "out" / part / latent_unet.FILE).read_bytes()
    assert import_pipeline(tmp_path / "out", tmp_path / "again") == []
    again = guided_distill.load(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.weights(), run.weights())
    same = ("schedule", "prediction", "network", "shape", "code_shape", "num_classes", "guidance", "recommended")
    assert {key: again.manifest[key] for key in same} == {key: run.manifest[key] for key in same}
    assert again.manifest["codec"]["sha256"] == run.manifest["codec"]["sha256"]
    assert again.manifest["imported"]["licence"] == run.manifest["imported"]["licence"]
    export_pipeline(again, tmp_path / "out2")
    assert equal(tmp_path / "out", tmp_path / "out2")


def student(root, teacher, num_steps, w=(0.0, 4.0), **changed):
    """A run as stage two would leave it: one student of each of `num_steps`, of random weights."""
    manifest = runs.read_manifest(teacher) | {"objective": "progressive", "factor": 2, "sampler": "ddim"}
    manifest |= {"rounds": [[n, k + 1] for k, n in enumerate(num_steps)], "updates": len(num_steps)}
    manifest |= {"guidance": {"kind": "embedded", "range": list(w)}, "name": "student"}
    manifest |= {"recommended": {"steps": num_steps[-1], "guidance": 1.0}}
    manifest |= {"teacher": [{"run": str(teacher), "step": 0, "hash": guided_distill.load(teacher).hash}]}
    manifest["network"]["args"] |= {"embed_guidance": w[0] < w[1], "guidance_dim": 16}
    del manifest["imported"]
    manifest |= changed
    saved = checkpoint.Checkpoints(root, tuple(end for _, end in manifest["rounds"]))
    for _, end in manifest["rounds"]:
        params = drawn(runs.abstract_weights(manifest), seed=end)
        counts = {"step": np.int32(end).reshape(()), "skipped": np.zeros(2, np.int32)}
        saved.save(state.TrainState(params={"student": params}, ema=None, opt_state=(), teacher={}, **counts), 0)
    saved.close()
    write_json(root / "manifest.json", manifest)
    return guided_distill.load(root)


@pytest.fixture(scope="module")
def halved(captioned, tmp_path_factory):
    """Students of 16, 4 and 2 steps. To be read only."""
    return student(tmp_path_factory.mktemp("halved"), captioned[1], (16, 4, 2))


def test_a_student_of_n_steps_comes_back_as_one(halved, tmp_path):
    run = halved
    export_pipeline(run, tmp_path / "two")
    export_pipeline(run, tmp_path / "four", steps=4)
    import_pipeline(tmp_path / "four", tmp_path / "again")
    again = guided_distill.load(tmp_path / "again")
    assert again.trained_steps == {4: 0} and again.manifest["guidance"] == run.manifest["guidance"]
    jax.tree.map(np.testing.assert_array_equal, again.weights(), run.weights(2))
    unets = [(tmp_path / name / "unet" / latent_unet.FILE).read_bytes() for name in ("two", "four")]
    assert unets[0] != unets[1]
    for wrong, told in ((1, "no student of 1 steps; trained: 16, 4, 2"), (8, "no student of 8 steps")):
        with pytest.raises(UserError, match=told):
            export_pipeline(run, tmp_path / "wrong", steps=wrong)
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(UserError, match=r"guidance 5 is outside the range"):
        again.sample(1, guidance=5.0, steps=4, prompts="a")


def test_the_card_says_what_one_has_to_know(captioned, classes, halved, tmp_path):
    run = halved
    export_pipeline(run, tmp_path / "out", steps=4)
    told = (tmp_path / "out" / "README.md").read_text()
    for word in ("license: creativeml-openrail-m", "4, and no others", "0 to 4, by one evaluation", "trailing", "1 + w",
                 "get_guidance_scale_embedding(guidance_scale - 1, embedding_dim=16)", "guidance_scale=2)",
                 "num_inference_steps=4", run.manifest["teacher"][0]["hash"], "StableDiffusionPipeline"):  # fmt: skip
        assert word in told, word
    assert str(tmp_path) not in told
    built = student(tmp_path / "single", captioned[1], (4,), w=(1.0, 1.0))
    export_pipeline(built, tmp_path / "built")
    assert "1, built in" in (tmp_path / "built" / "README.md").read_text()
    export_pipeline(guided_distill.load(classes[1]), tmp_path / "classes")
    told = (tmp_path / "classes" / "README.md").read_text()
    assert "license: unknown" in told and card.UNKNOWN in told and "class_tokens.safetensors" in told
    code = told.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


@pytest.mark.parametrize("kind", ["external", "embedded"])
@pytest.mark.parametrize(("classes", "label_as", "text"), [(5, "time", None), (5, "token", None), (0, "time", "clip")])
def test_the_loop_on_a_card_tells_both_halves_what_they_are_for(kind, classes, label_as, text):
    network = {"num_classes": classes, "label_as": label_as, "embed_guidance": False}
    prepared, evaluated = card.loop({"network": {"args": network}, "guidance": {"kind": kind}, "text": text}, "f")
    calls = [line.partition("unet")[2] for line in evaluated if "unet(" in line]
    assert len(calls) == (2 if kind == "external" else 1) and all(line.isascii() for line in prepared)
    told = "states" if text or label_as == "token" else "None"
    assert calls[0].startswith(f"(z, t, {told}") and ("class_labels=labels" in calls[0]) == (told == "None")
    if kind == "external":
        untold = "null_states" if told == "states" else "None"
        assert calls[1].startswith(f"(z, t, {untold}") and ("class_labels=null" in calls[1]) == (untold == "None")
        assert evaluated[-1] == "out = told + w[:, None, None, None] * (told - untold)"
        assert ("null = torch.full_like(labels, 5)" in prepared) == bool(classes)


def test_a_shift_that_no_pipeline_knows_is_told(tmp_path):
    """diffusers' pipelines only divide latents by their scale; and a shift that was left out stays out."""
    folder = write_captioned(tmp_path / "shifted")
    config = json.loads((folder / "vae" / "config.json").read_text())
    write_json(folder / "vae" / "config.json", config | {"shift_factor": 0.5})
    import_pipeline(folder, tmp_path / "run")
    run = guided_distill.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"shift no latents; this codec shifts them by 0\.5"):
        export_pipeline(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run.manifest["codec"] |= {"shift": 0.0}
    export_pipeline(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vae" / "config.json").read_text())["shift_factor"] == 0.0


def test_where_diffusers_ends_above_clean_data_is_told():
    """Its DDIM goes from round(T / N) - 1 down by floor(T / N), and below 0 is clean."""
    assert [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if not scheduler.ends_in_x(schedules.Discrete(), n)] == [
        64,
        128,
        256,
    ]


def test_steps_that_do_not_divide_are_told(halved, tmp_path):
    [note] = export_pipeline(halved, tmp_path / "out", steps=16)
    assert "1000 timesteps do not divide by 16" in note and note in (tmp_path / "out" / "README.md").read_text()


CANNOT = {
    "no latent_unet": ({"network": {"name": "unet", "args": {}}}, "network 'unet' is none of diffusers'"),
    "another time": ({"time_input": "u"}, "told 'u' of Discrete, and cannot"),
    "another schedule": ({"schedule": {"name": "Cosine"}}, "told 'index' of Cosine, and cannot"),
    "pixels": ({"codec": {"name": "pixel"}}, "unknown codec that diffusers has: 'pixel'; valid: kl_vae, vq_vae"),
    "an encoder": ({"objective": "encoding"}, "goes from images to noise"),
    "a sampler": ({"rounds": [[4, 1]], "sampler": "stochastic"}, "trained for the sampler 'stochastic'"),
    "an interval": ({"guidance": {"kind": "external", "interval": [-1, 1]}}, "in an interval of log-SNR"),
    "other text": ({"text": {"name": "words"}}, "unknown text encoder that diffusers has: 'words'; valid: clip"),
    "unrounded": ({"codec": {"name": "vq_vae", "quantize": False}}, "codec.quantize=False cannot be told"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_diffusers_has_no_word_for_is_refused(case, captioned):
    changed, told = CANNOT[case]
    manifest = runs.read_manifest(captioned[1])
    exporting.require_words(manifest)
    with pytest.raises(UserError, match=told):
        exporting.require_words(manifest | changed)


def test_export_leaves_what_is_there(captioned, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        export_pipeline(guided_distill.load(captioned[1]), tmp_path)
    with pytest.raises(UserError, match="takes any number of steps"):
        export_pipeline(guided_distill.load(captioned[1]), tmp_path / "out", steps=4)
    with pytest.raises(UserError, match="is not empty; name a new directory"):
        import_pipeline(captioned[0], captioned[1])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# Networks that are shown an image.


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """An inpainting pipeline, and the run of it. To be read only."""
    root = tmp_path_factory.mktemp("painter")
    folder = write_captioned(root / "pipeline", shown=5, kind=describing.PIPELINES[channels.INPAINTING])
    change(
        folder / "vae" / "config.json", scaling_factor=1.6
    )  # Codes of about unit deviation, which encoding asks for.
    import_pipeline(folder, root / "run")
    return folder, root / "run"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """A pipeline of instructions, and the run of it. To be read only."""
    root = tmp_path_factory.mktemp("editor")
    folder = write_captioned(root / "pipeline", shown=4, kind=describing.PIPELINES[channels.EDITING])
    import_pipeline(folder, root / "run")
    return folder, root / "run"


def pictures(num=2):
    return np.random.default_rng(5).uniform(-1, 1, (num, SIZE, SIZE, 3)).astype(np.float32)


def test_inpainting_networks_are_shown_what_theirs_are(painter):
    """Blanked by grey pixels, and then encoded; of nothing else, that is a sample."""
    run, images = guided_distill.load(painter[1]), pictures()
    assert run.manifest["channels"] == ["mask", "image"] and run.manifest["shown"] == {"blank": "grey"}
    mask = editing.centre((SIZE, SIZE, 3))
    paint = lambda images, mask: editing.inpaint(run, images, mask, 2, guidance=1.0, prompts="the cat", seed=2)  # noqa: E731
    out = paint(images, mask)
    np.testing.assert_array_equal(out[:, ~mask], images[:, ~mask])
    np.testing.assert_array_equal(paint(np.where(mask[..., None], -images, images), mask), out)
    assert np.abs(paint(np.where(mask[..., None], images, -images), mask) - out)[:, mask].max() > 1e-3
    sample = run.sample(2, 2, 1.0, seed=2, prompts="the cat")
    np.testing.assert_allclose(paint(images, np.ones_like(mask)), sample, atol=1e-5)
    cond, grey = run.cond(1, prompts="the cat"), run.codes(np.zeros((1, SIZE, SIZE, 3), np.float32))
    np.testing.assert_array_equal(cond["mask"], np.ones((1, 8, 8, 1)))
    np.testing.assert_allclose(cond["image"], grey, atol=1e-6)
    assert np.abs(grey).max() > 0.01


def test_instructions_are_followed_beside_latents_as_they_are(editor):
    """Its network is shown the autoencoder's latents, not scaled as those are that it denoises."""
    run, images = guided_distill.load(editor[1]), pictures()
    assert run.manifest["channels"] == ["image"] and run.manifest["shown"] == {"scale": 2.0}
    assert run.manifest["guidance"]["image"] and run.manifest["recommended"]["guidance_image"] == 0.5
    out = editing.instruct(run, images, "the cat", 2, 1.0, 0.5, seed=1)
    np.testing.assert_array_equal(editing.instruct(run, images, "the cat", 2, 1.0, seed=1), out)
    assert np.abs(editing.instruct(run, images, "the cat", 2, 1.0, 0.0, seed=1) - out).max() > 1e-4
    cond = run.cond(2, 1.0, prompts="the cat") | {"guidance_image": np.full(2, 0.5, np.float32)}
    cond["image"] = 2.0 * run.codes(images)
    expected = run.down(run.noise(2, 1), schedules.grid(run.schedule, 2), 2, cond, 1)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["painter", "editor"])
def test_what_is_shown_comes_back(kind, request, tmp_path):
    folder, path = request.getfixturevalue(kind)
    run = guided_distill.load(path)
    notes = export_pipeline(run, tmp_path / "out")
    assert len(notes) == (kind == "painter")
    index = importing.index(tmp_path / "out")
    assert index["_class_name"] == importing.index(folder)["_class_name"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"import {index['_class_name']}" in card and "picture" in card
    assert ("image_guidance_scale=1.5" in card) == (kind == "editor")
    import_pipeline(tmp_path / "out", tmp_path / "again")
    again = guided_distill.load(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.weights(), run.weights())
    same = ("channels", "shown", "guidance", "recommended", "codec", "text_shape")
    assert {key: again.manifest[key] for key in same if key != "codec"} == {
        key: run.manifest[key] for key in same if key != "codec"
    }


def test_a_student_of_an_inpainting_network_is_shown_the_same(painter, tmp_path):
    """Stage one of it: the manifest, and what a step shows; and what diffusers is told of the student."""
    above = runs.read_manifest(painter[1])
    spec = {"name": "synthetic", "num": 8, "captions": True, "shape": (SIZE, SIZE, 3), "split": "train"}
    encoders = latents.Encoders(above["codec"], above["text"])
    latents.write(data.load(**spec), spec, encoders, "blobs", str(tmp_path))
    config = laion512_stage1.get_config("tiny")
    with config.unlocked():
        config.teacher, config.batch_size = str(painter[1]), 2
        config.data = {"name": "encoded", "of": "blobs", "directory": str(tmp_path)}
        config.codec = {"name": "as_data"}
    stage = stages.build(config.to_dict())
    assert stage.manifest["channels"] == ["mask", "image"] and stage.manifest["shown"] == {"blank": "grey"}
    source = data.load(**config.data)[:2]
    batch = {name: jnp.asarray(source[name]) for name in ("x", "text")}
    jax.eval_shape(stage.steps[0], stage.abstract(), batch)
    show = stages.make_show(keys.Keys({}), stage.manifest)
    shown = show(jax.random.key(0), {"x": jnp.ones((2, 8, 8, 4))})
    grey = guided_distill.load(painter[1]).codes(np.zeros((1, SIZE, SIZE, 3), np.float32))
    np.testing.assert_allclose(shown["image"], np.where(shown["mask"] > 0, grey, 1.0), atol=1e-6)
    run = student(tmp_path / "run", painter[1], (4, 1))
    export_pipeline(run, tmp_path / "out", steps=1)
    assert "StableDiffusionInpaintPipeline" in (tmp_path / "out" / "README.md").read_text()


# Bad input.


def change(path, **entries):
    write_json(path, json.loads(path.read_text()) | entries)


def add_key(folder):
    arrays = load_file(folder / "unet" / latent_unet.FILE)
    save_file(arrays | {"odd.weight": np.zeros(1, np.float32)}, folder / "unet" / latent_unet.FILE)


def drop_key(folder):
    arrays = load_file(folder / "unet" / latent_unet.FILE)
    del arrays["conv_in.bias"]
    save_file(arrays, folder / "unet" / latent_unet.FILE)


def scheduler_of(**entries):
    return lambda folder: change(folder / "scheduler" / scheduler.FILE, **entries)


BAD = {
    "an unknown key": (add_key, {}, r"not the weights of the U-Net of .*: not expected: odd\.weight"),
    "a missing key": (drop_key, {}, r"missing: conv_in\.bias"),
    "two predictions": (scheduler_of(prediction_type="v_prediction"), {"prediction": "eps"}, "says that v is pred"),
    "no prediction": (scheduler_of(prediction_type="flow"), {}, "unknown prediction_type in .* 'flow'; valid: epsilon"),
    "eps at zero": (scheduler_of(rescale_betas_zero_snr=True), {}, "zero terminal SNR .* give prediction='v'"),
    "other betas": (scheduler_of(beta_schedule="sigmoid"), {}, "unknown beta_schedule in .* 'sigmoid'; valid: scaled"),
    "flow": (scheduler_of(_class_name="FlowMatchEulerDiscreteScheduler"), {}, "is of a FlowMatch"),
    "two scales": (lambda folder: None, {"scale": 0.25}, "says scaling_factor 0.5, and scale=0.25 is asked for"),
    "no scale": (lambda f: change(f / "vqvae" / "config.json", scaling_factor=None), {}, "give scale=1 for LDM's"),
    "a w range": (lambda folder: None, {"w_range": (0.0, 4.0)}, r"w_range=\(0.0, 4.0\): expected .* an input for w"),
    "no vae": (lambda folder: shutil.rmtree(folder / "vqvae"), {}, "has no vae; give the path of each: vae=PATH"),
    "no table": (lambda folder: (folder / importing.TOKENS).unlink(), {}, "reads text, and there is no text encoder"),
    "two encoders": (
        lambda f: write_json(f / "model_index.json", {"_class_name": "SDXL", "text_encoder_2": ["x", "CLIP"]}),
        {},
        "is a SDXL with text_encoder_2; read are",
    ),
    "a size": (lambda folder: None, {"resolution": 17}, "images of 17 x 17 do not divide by 2"),
    "no size": (lambda folder: None, {"resolution": 0}, "resolution=0 of images is not positive"),
    "no number": (scheduler_of(beta_start="a"), {}, r"beta_start in .* is 'a', no number"),
    "nothing": (lambda folder: shutil.rmtree(folder / "unet"), {}, "no unet in"),
    "betas": (lambda f: write_json(f / "scheduler" / scheduler.FILE, {"_class_name": "DDIMScheduler"}), {}, "no beta"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case, classes, tmp_path):
    spoil, options, told = BAD[case]
    folder = shutil.copytree(classes[0], tmp_path / "pipeline")
    spoil(folder)
    with pytest.raises(UserError, match=told) as error:
        import_pipeline(folder, tmp_path / "run", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_w_needs_its_range(tmp_path):
    folder = write_classes(tmp_path / "pipeline", embed_guidance=True, guidance_dim=8)
    with pytest.raises(UserError, match="does not say its range; give w_range"):
        import_pipeline(folder, tmp_path / "run")
    import_pipeline(folder, tmp_path / "run", w_range=(2.0, 14.0))
    run = guided_distill.load(tmp_path / "run")
    assert (
        run.manifest["guidance"] == {"kind": "embedded", "range": [2.0, 14.0]}
        and run.manifest["objective"] == "matching"
    )
    assert run.manifest["recommended"]["guidance"] == 2.0
    export_pipeline(run, tmp_path / "out")
    import_pipeline(tmp_path / "out", tmp_path / "narrow", w_range=(3.0, 4.0))
    assert guided_distill.load(tmp_path / "narrow").manifest["recommended"]["guidance"] == 3.0
    import_pipeline(tmp_path / "out", tmp_path / "low", w_range=(0.0, 0.5))
    assert guided_distill.load(tmp_path / "low").manifest["recommended"]["guidance"] == 0.5
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name a new directory"):
        import_pipeline(folder, tmp_path / "file", w_range=(2.0, 14.0))


def write_consistency(folder, classes=False):
    """A pipeline of an LCM network."""
    folder = write_classes(folder, embed_guidance=True, guidance_dim=8) if classes else write_captioned(folder, w=True)
    path = folder / "scheduler" / scheduler.FILE
    write_json(path, json.loads(path.read_text()) | {"_class_name": "LCMScheduler", "timestep_spacing": "leading"})
    return folder


@pytest.mark.parametrize("classes", [True, False])
def test_a_consistency_model_comes_in_with_its_sampler_and_goes_out_with_it(classes, tmp_path):
    folder = write_consistency(tmp_path / "pipeline", classes)
    import_pipeline(folder, tmp_path / "run", w_range=(2.0, 14.0))
    run = guided_distill.load(tmp_path / "run")
    assert run.manifest["sampler"] == "consistency" and run.manifest["recommended"]["steps"] == 4
    once, again, other = (run.sample(2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - run.sample(2, seed=1, sampler="ddim")).max() > 1e-3 < np.abs(once - other).max()
    assert "draws noise of its own" in export_pipeline(run, tmp_path / "out")[0]
    assert json.loads((tmp_path / "out" / "scheduler" / scheduler.FILE).read_text())["_class_name"] == "LCMScheduler"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "LCM: to x, and back up" in card and "DDIM" not in card
    if classes:
        assert "scheduler = LCMScheduler.from_pretrained" in card
    else:
        index = json.loads((tmp_path / "out" / "model_index.json").read_text())
        assert index["scheduler"] == ["diffusers", "LCMScheduler"]
    import_pipeline(tmp_path / "out", tmp_path / "second")
    assert guided_distill.load(tmp_path / "second").manifest["sampler"] == "consistency"


@pytest.mark.parametrize("fields", [{"in_channels": 5, "out_channels": 4}, {"out_channels": 8}])
def test_networks_of_other_channels_are_refused(fields, tmp_path):
    folder = write_classes(tmp_path / "pipeline", **fields)
    with pytest.raises(UserError, match=r"(reads 5|puts out 8) channels, and latents have 4"):
        import_pipeline(folder, tmp_path / "run")


def test_the_command_line(classes, tmp_path, capsys):
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    assert __main__.main(["import", str(classes[0]), run]) == 0
    assert __main__.main(["export", run, out]) == 0
    told = capsys.readouterr().out
    assert "note: its PNDMScheduler steps with" in told and "README.md" in told
    assert (tmp_path / "out" / "unet" / "config.json").is_file()
    assert __main__.main(["import", str(tmp_path / "none"), str(tmp_path / "x")]) == 2


# eps and v.


def amplification(prediction, logsnr):
    """How far x moves when what the network says moves by 1."""
    z, at = jnp.zeros((1, 1)), jnp.full((1,), logsnr)
    x = lambda said: getattr(predictions, f"from_{prediction}")(said, z, at).x[0, 0]  # noqa: E731
    return abs(float(jax.grad(x)(jnp.ones((1, 1)))[0, 0]))


@pytest.mark.parametrize(("betas", "amplified"), [((0.00085, 0.012), 14.6), ((0.0015, 0.0195), 84.0)])
def test_eps_amplifies_the_error_of_few_steps_and_v_does_not(betas, amplified):
    logsnr = float(schedules.Discrete(*betas)(1.0))
    assert amplification("eps", logsnr) == pytest.approx(amplified, rel=0.01)
    assert amplification("v", logsnr) < 1


def test_zero_terminal_snr_is_for_v():
    schedule = schedules.Discrete(zero_terminal_snr=True)
    network = latent_unet.Network(out_channels=4, cross_attention_dim=4, **UNET)
    with pytest.raises(UserError, match="zero terminal SNR"):
        Parameterised(network, "eps", "index", schedule)
    assert dataclasses.replace(Parameterised(network, "v", "index", schedule), prediction="x")
