"""Every config builds abstractly; what is wrong in one is found before anything is written, and told in one line."""

import importlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from configs import (
    base,
    digits_stage1,
    digits_stage2,
    digits_teacher,
    mixture2d_stage1,
    mixture2d_stage2,
    mixture2d_teacher,
)
from guided_distill import data, launch, plans, runs, stages, teachers, trainer
from guided_distill.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "base"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_has_a_lab_book_header_with_its_command(path):
    header = path.read_text().split('"""')[1]
    assert f"python main.py --config=configs/{path.name}" in header and any(
        unit in header for unit in ("second", "minute", "hours, estimated")
    )


def build(config, teacher=None):
    if teacher is not None:
        config.teacher = str(teacher)
    return stages.build(config.to_dict())


CASES = {
    "digits_teacher": (digits_teacher, "", None),
    "digits_stage1": (digits_stage1, "", "teacher"),
    "digits_stage1:w=1": (digits_stage1, "w=1", "teacher"),
    "digits_stage2": (digits_stage2, "", "stage1"),
    "digits_stage2:stochastic": (digits_stage2, "stochastic", "stage1"),
    "digits_stage2:encoding": (digits_stage2, "encoding", "stage1"),
    "digits_stage2:unguided": (digits_stage2, "unguided", "teacher"),
}
MIXTURE_CASES = {
    "mixture2d_teacher": (mixture2d_teacher, "", None),
    "mixture2d_stage1:unguided": (mixture2d_stage1, "unguided", "teacher"),
    "mixture2d_stage1:w=1": (mixture2d_stage1, "w=1,sigma=0.12", "teacher"),
    "mixture2d_stage1": (mixture2d_stage1, "", "teacher"),
    "mixture2d_stage2": (mixture2d_stage2, "", "stage1"),
    "mixture2d_stage2:tiny,stochastic": (mixture2d_stage2, "tiny,stochastic", "stage1"),
    "mixture2d_stage2:encoding": (mixture2d_stage2, "encoding", "stage1"),
}


@pytest.mark.parametrize("case", CASES)
def test_builds_abstractly(case, digits):
    module, arguments, teacher = CASES[case]
    check_abstract(build(module.get_config(arguments), teacher and digits / teacher), case)


@pytest.mark.parametrize("case", MIXTURE_CASES)
def test_builds_abstractly_mixture(case, mixture):
    module, arguments, teacher = MIXTURE_CASES[case]
    check_abstract(build(module.get_config(arguments), teacher and mixture / teacher), case)


IMAGES = {"cifar10": (32, 32, 3), "imagenet64": (64, 64, 3), "fashion_mnist": (32, 32, 1)}
IMAGE_CASES = [
    *((name, stage, "") for name in IMAGES for stage in ("teacher", "stage1", "stage2")),
    *((name, "stage2", arg) for name in IMAGES for arg in ("stochastic", "unguided", "encoding")),
    *(("fashion_mnist", stage, "cpu") for stage in ("teacher", "stage1", "stage2")),
    *(("folder", stage, "size=32") for stage in ("teacher", "stage1", "stage2")),
]


@pytest.mark.parametrize("name, stage, argument", IMAGE_CASES, ids=lambda part: part or "-")
def test_builds_abstractly_images(name, stage, argument, digits):
    """The paper's settings, with stand-in pictures of the real shape, and students of a teacher that is at hand."""
    config = importlib.import_module(f"configs.{name}_{stage}").get_config(argument)
    above = None
    if stage == "teacher":
        shape = {"cpu": (16, 16, 1), "size=32": (32, 32, 3)}.get(argument) or IMAGES[name]
        config.data = {"name": "synthetic", "shape": shape, "num_classes": 10, "num": 8}
    else:
        above = digits / ("teacher" if stage == "stage1" or argument == "unguided" else "stage1")
    case = {"teacher": "digits_teacher"}.get(stage, f"digits_{stage}:{argument}")
    check_abstract(build(config, above), case)


LATENT_CASES = [
    *(
        (name, stage, "tiny")
        for name in ("emoji", "emoji_styles", "imagenet256", "laion512")
        for stage in ("teacher", "stage1", "stage2")
    ),
    *(("emoji", "stage2", f"tiny,{arg}") for arg in ("stochastic", "unguided", "encoding", "w=1")),
    *(("laion512", "stage2", f"tiny,{arg}") for arg in ("unguided", "w=2")),
]


@pytest.mark.parametrize("name, stage, argument", LATENT_CASES)
def test_builds_abstractly_latents(name, stage, argument):
    """Made-up codes, after teachers that need not be there."""
    config = importlib.import_module(f"configs.{name}_{stage}").get_config(argument)
    built = plans.build(config.to_dict())
    batch = {k: jax.ShapeDtypeStruct((8, *v.shape[1:]), v.dtype) for k, v in data.given(built.source.arrays).items()}
    after, metrics = jax.eval_shape(built.steps[0], built.abstract(), batch)
    assert jax.tree.structure(after) == jax.tree.structure(built.abstract()) and metrics["loss"].shape == ()
    assert bool(built.manifest["text"]) == (name != "imagenet256")
    assert built.manifest["prediction"] == ("eps" if stage == "teacher" and name[:5] != "emoji" else "v")


def test_a_student_of_strong_guidance_has_no_encoder():
    config = importlib.import_module("configs.laion512_stage2").get_config("tiny,encoding")
    with pytest.raises(UserError, match=r"it knows w in \[2, 14\], and \[0, 0\] is asked for"):
        plans.build(config.to_dict())


@pytest.mark.parametrize("name, million", [("cifar10", 60.0), ("imagenet64", 295.9)])
def test_the_papers_networks_have_the_papers_size(name, million):
    config = importlib.import_module(f"configs.{name}_teacher").get_config()
    config.data = {"name": "synthetic", "shape": IMAGES[name], "num_classes": 10, "num": 8}
    weights = runs.abstract_weights(build(config).manifest)
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(weights)) / 1e6 / million - 1) < 0.01


@pytest.mark.parametrize("name", [*IMAGES, "folder"])
def test_tiny_needs_no_data(name):
    stages_of = importlib.import_module(f"configs.{name}_chain").get_config("tiny").stages
    assert stages_of.teacher.data.name == "synthetic" and build(stages_of.teacher).source.info.shape[:2] == (16, 16)


def check_abstract(stage, case):
    state = stage.abstract()
    assert json.loads(json.dumps(stage.manifest)) == stage.manifest
    if not stage.manifest["trains"]:
        return
    batch = {k: jax.ShapeDtypeStruct((8, *v.shape[1:]), v.dtype) for k, v in stage.source.arrays.items()}
    after, metrics = jax.eval_shape(stage.steps[0], state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics["loss"].shape == ()
    kind = stage.manifest["guidance"]["kind"]
    assert kind == {
        "digits_teacher": "external",
        "digits_stage2:unguided": "none",
        "mixture2d_stage1:unguided": "none",
    }.get(case, "embedded")
    assert stage.manifest["sampler"] == ("stochastic" if "stochastic" in case else "ddim")


def test_skipping_stage_one_builds_with_a_step_of_its_own(digits):
    stage = build(digits_stage2.get_config("tiny"), digits / "teacher")
    assert stage.steps[0] is not stage.steps[1]
    jax.eval_shape(stage.steps[0], stage.abstract(), {k: v[:8] for k, v in stage.source.arrays.items()})


@pytest.mark.parametrize(
    "text, message",
    [
        ("tny", "tiny"),
        ("w", "w=..."),
        ("w=x", "not a number"),
        ("tiny=1", "tiny"),
        ("stochastic,encoding", "exclude each other"),
        ("w=1,unguided", "exclude each other"),
    ],
)
def test_unknown_arguments_name_the_valid_ones(text, message):
    with pytest.raises(UserError, match=message):
        digits_stage2.get_config(text)


def test_arguments_have_one_spelling():
    assert digits_stage2.get_config("w=1.0,tiny").arguments == "tiny,w=1"
    assert digits_stage2.get_config("w=1,tiny").teacher == "runs/digits_stage1-tiny,w=1"
    assert digits_stage2.get_config("stochastic").teacher == "runs/digits_stage1"
    assert base.run_dir("x", "") == "runs/x"


def mutate(path, value):
    def change(config):
        node = config
        *parents, last = path.split(".")
        for part in parents:
            node = node[part]
        with node.unlocked():
            node[last] = value

    return change


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("objective.drpout", 0.1, "drpout.*valid"),
        ("teacher", "runs/none", "nothing reads.*config.teacher"),
        ("network.chanels", 3, "chanels.*valid.*channels"),
        ("network.name", "vit", "vit.*unet"),
        ("prediction", "y", "'y'.*eps"),
        ("time_input", "index", "Discrete"),
        ("optim.name", "sgd", "sgd.*adamw"),
        ("optim.beta", 0.1, "beta.*valid"),
        ("optim.decay", "step", "step.*cosine"),
        ("optim.lr", -1.0, r"optim\.lr -1\.0 is not positive"),
        ("objective.weighting.name", "p2", "p2.*truncated_snr"),
        ("objective.name", "consistency", "consistency.*progressive"),
        ("sampling.sampler", "euler", "euler.*heun"),
        ("data.name", "mnist", "mnist.*digits"),
        ("codec.name", "vae", "vae.*pixel"),
        ("schedule.name", "linear", "linear.*Cosine"),
        ("num_updates", 0, "num_updates 0"),
        ("batch_size", 0, "batch_size 0"),
        ("ema", 1.5, "ema 1.5"),
        ("objective.dropout", 1.7, "dropout 1.7"),
        ("objective.guidance_interval", (3.0, -3.0), "guidance_interval"),
        ("sampling.steps", 0, "steps 0"),
        ("sampling.guidance", -1.0, "guidance -1 is outside"),
        ("schedule.logsnr_min", 30.0, "must fall"),
        ("network.channels", 0, "config.network"),
        ("network.num_heads", 3, "config.network"),
        ("network.preset", "sd", "sd.*cifar10"),
    ],
)
def test_mistakes_in_a_teachers_config(path, value, message):
    config = digits_teacher.get_config("tiny")
    mutate(path, value)(config)
    with pytest.raises(UserError, match=message):
        build(config)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("objective.w_max", 5.0, r"knows w in \[0, 4\], and \[0, 5\]"),
        ("objective.w_min", 4.5, "w_min <= w_max"),
        ("halving.start_steps", 12, "power of two"),
        ("halving.last_updates_factor", 0.0, "last_updates_factor"),
        ("sampling.guidance", 9.0, r"guidance 9 is outside the range of w, \[0, 4\]"),
        ("prediction", "x", "another meaning"),
        ("halving.end_steps", 8, "not below"),
        ("schedule", {"name": "ShiftedCosine", "resolution": 32}, "does not fit: its schedule"),
        ("data", {"name": "synthetic"}, "does not fit: its code_shape"),
    ],
)
def test_mistakes_in_a_students_config(path, value, message, digits, tmp_path):
    config = digits_stage2.get_config("tiny")
    config.teacher = str(digits / "stage1")
    mutate(path, value)(config)
    with pytest.raises(UserError, match=message):
        trainer.run(config.to_dict(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_teacher_names_the_command(tmp_path):
    config = digits_stage1.get_config("tiny")
    config.teacher = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"make it with: python main.py --config=configs/digits_teacher.py:tiny"):
        build(config)


def test_a_pair_of_teachers_must_agree(digits, mixture):
    config = digits_stage1.get_config("tiny")
    config.teacher, config.teacher_unconditional = str(digits / "teacher"), str(mixture / "teacher")
    with pytest.raises(UserError, match="does not go with"):
        build(config)


def test_a_second_teacher_is_told_the_same_or_nothing(digits, tmp_path):
    """Else its labels would be read where it has none, or be others'."""

    def told(name, classes):
        path = shutil.copytree(digits / "teacher", tmp_path / name) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_classes": classes}))
        return str(path.parent)

    nothing, few, all_ = (told(f"of{classes}", classes) for classes in (0, 5, 10))
    assert teachers.load(all_, nothing, "").other is not None is not teachers.load(all_, all_, "").other
    for pair, message in {(all_, few): "its num_classes is 5, not 10", (nothing, all_): "is 10, not 0"}.items():
        with pytest.raises(UserError, match=message):
            teachers.load(*pair, "")


def test_a_teacher_that_is_not_finished_is_refused(digits, tmp_path):
    shutil.copytree(digits / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher/checkpoints/12.sha256.json").unlink()
    with pytest.raises(UserError, match=r"stopped at 6 of 12; finish it with: python main.py"):
        build(digits_stage1.get_config("tiny"), tmp_path / "teacher")


def test_a_preset_is_a_network(digits):
    config = digits_teacher.get_config("tiny")
    config.network = {"name": "unet", "preset": "cifar10", "channels": 32}
    args = build(config).manifest["network"]["args"]
    assert args["channel_multipliers"] == [1, 1, 1] and args["num_res_blocks"] == 3 and args["channels"] == 32


def test_a_teacher_may_be_guided_in_an_interval_only(digits):
    config = digits_teacher.get_config("tiny")
    config.objective.guidance_interval = (-3.0, 3.0)
    manifest = build(config).manifest
    assert manifest["guidance"] == {"kind": "external", "interval": [-3.0, 3.0]}
    params = runs.load(digits / "teacher").weights()
    z, cond = jax.numpy.ones((1, 8, 8, 1)), {"label": jax.numpy.array([3]), "guidance": jax.numpy.array([4.0])}
    limited, always = runs.bind(manifest), runs.bind({**manifest, "guidance": {"kind": "external"}})
    for logsnr, same in ((0.0, True), (6.0, False)):
        a, b = (bind(params)(z, jax.numpy.array([logsnr]), cond).x for bind in (limited, always))
        assert bool(jax.numpy.all(a == b)) == same


def test_steps_may_be_halved_before_guidance_is_learned(digits):
    """A plain chain of all classes and the null class is guided from outside; a student is matched to it at its own
    times."""
    config = digits_stage2.get_config("tiny")
    config.objective.update({"dropout": 0.2, "w_max": 0.0, "w_min_share": 0.0})
    config.sampling.guidance = 0.0
    stage = build(config, digits / "teacher")
    assert stage.manifest["guidance"] == {"kind": "external", "interval": None}
    assert stage.steps[0] is stage.steps[1] and "embed_guidance" in stage.manifest["network"]["args"]
    assert not stage.manifest["network"]["args"]["embed_guidance"]
    config.objective.w_max = 2.0
    with pytest.raises(UserError, match="that know no w, to be guided afterwards"):
        build(config, digits / "teacher")
    config = digits_stage1.get_config("tiny")
    config.objective.grid = 1
    assert build(config, digits / "stage2").manifest["guidance"] == {"kind": "embedded", "range": [0.0, 4.0]}


def test_a_halved_chain_is_no_teacher(digits):
    with pytest.raises(UserError, match=r"chain halved to 1 steps.*grid=1"):
        build(digits_stage1.get_config("tiny"), digits / "stage2")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--config=configs/digits_teacher.py:tiny", "--config.optim.lrr=1"],
            "unknown config key config.optim.lrr; valid here: .*lr",
        ),
        (["--config=configs/digits_teacher.py:tny"], "unknown config argument 'tny'; valid: tiny"),
        (["--config=configs/digits_stage1.py:w=-2"], "'w=-2': a guidance strength is 0 or more"),
        (["--config=configs/none.py"], "no config 'configs/none.py'; there are .*digits_chain.py"),
        (["--config=configs/digits_teacher.py:tiny", "--config.num_updates=many"], "many"),
        ([], "--config is missing"),
        (["--config=configs/digits_teacher.py:tiny", "--config.network.name=vit"], "vit.*unet"),
    ],
)
def test_main_tells_a_mistake_in_one_line(flags, message, tmp_path):
    import re

    command = [sys.executable, "main.py", *flags, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_warning_to_users_is_one_line_and_others_say_where(capsys):
    def warn():
        for kind in (UserWarning, DeprecationWarning):
            print(warnings.formatwarning("too long:\n  cut", kind, "text.py", 7, "x = 1"), end="")

    assert launch.guarded(warn) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "warning: too long: cut" and rest[0].startswith("text.py:7: DeprecationWarning: too long:")
    warn()
    assert capsys.readouterr().out.startswith("text.py:7: UserWarning: ")


def test_a_chain_lends_its_settings_and_directories(digits):
    from configs import digits_chain

    config = digits_chain.get_config("tiny")
    assert tuple(config.order) == ("teacher", "stage1", "stage2")
    assert json.loads((digits / "stage2" / "config.json").read_text())["teacher"] == str(digits / "stage1")
    assert launch.default_dir(config["stages"]["stage2"].to_dict()) == Path("runs/digits_stage2-tiny")
