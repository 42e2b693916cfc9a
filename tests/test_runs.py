"""Runs as users hold them: what they give, what they refuse, and what they make of damage."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import guided_distill
from configs import digits_stage1, digits_teacher, mixture2d_stage2
from guided_distill import checkpoint, runs, schedules, trainer
from guided_distill.__main__ import main
from guided_distill.errors import UserError


def test_manifest_says_all_that_is_needed(digits):
    teacher, student = (json.loads((digits / name / "manifest.json").read_text()) for name in ("teacher", "stage2"))
    assert (
        teacher["guidance"] == {"kind": "external", "interval": None}
        and teacher["rounds"] is None
        and teacher["weights"] == "ema"
    )
    assert student["guidance"] == {"kind": "embedded", "range": [0.0, 4.0]} and student["sampler"] == "ddim"
    assert student["rounds"] == [[4, 4], [2, 10], [1, 16]] and student["weights"] == "params"
    (above,) = student["teacher"]
    assert above["run"].endswith("stage1") and above["step"] == 8
    assert above["hash"] == checkpoint.fingerprint(digits / "stage1", 8)
    assert set(student["versions"]) >= {"jax", "flax", "python"}


def test_artefacts_of_a_run(digits):
    run = digits / "stage2"
    steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert steps == sorted(set(steps)) and steps[-1] == 16
    assert {p.name for p in (run / "samples").iterdir()} == {"00000004.png", "00000010.png", "00000016.png"}
    assert list((run / "tensorboard").iterdir())
    assert checkpoint.Checkpoints(run).steps() == [4, 10, 14, 16]  # every round's last, and the newest two


def test_clipping_is_the_manifests_unless_told(digits):
    run = runs.load(digits / "teacher")
    own, clipped, free = (run.sample(8, 4, 4.0, seed=1, clip=clip) for clip in (None, True, False))
    np.testing.assert_array_equal(own, clipped)
    assert np.abs(own).max() <= 1 + 1e-6 and np.abs(free).max() > 1.01


def test_sample_is_a_function_of_seed_and_index(digits):
    run = guided_distill.load(digits / "teacher")
    many = run.sample(12, steps=4, seed=3, labels=5, sampler="stochastic")
    few = run.sample(5, steps=4, seed=3, labels=5, sampler="stochastic", batch_size=2)
    np.testing.assert_allclose(many[:5], few, atol=1e-4)
    np.testing.assert_array_equal(run.noise(12, 3)[:5], run.noise(5, 3))
    assert np.abs(many[:5] - run.sample(5, steps=4, seed=4, labels=5, sampler="stochastic")).max() > 1e-2
    assert many.shape == (12, 8, 8, 1) and many.dtype == np.float32 and np.abs(many).max() <= 1


def test_noise_and_guidance_are_what_was_given(mixture):
    """A run's sampling is DDIM of its denoiser from the noise given."""
    run = guided_distill.load(mixture / "teacher")
    z, cond = run.noise(8), {"label": jnp.arange(8) % 4, "guidance": jnp.full((8,), 2.0)}
    grid = schedules.grid(run.schedule, 2)
    now, middle = (jnp.full((8,), level) for level in grid[:2])
    first = run.denoise(jnp.asarray(z), now, cond)
    alpha, sigma = schedules.alpha_sigma(grid[1])
    want = run.denoise(alpha * first.x + sigma * first.eps, middle, cond).x
    got = run.sample(8, steps=2, guidance=2.0, labels=np.arange(8) % 4, noise=z)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_rounds_have_their_own_weights(digits):
    run = guided_distill.load(digits / "stage2")
    assert run.trained_steps == {4: 4, 2: 10, 1: 16}
    last = guided_distill.load(digits / "stage2", step=10)
    assert last.trained_steps == {2: 10}
    np.testing.assert_array_equal(run.sample(3, steps=2), last.sample(3, steps=2))
    one, two = run.weights(16), run.weights(10)
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(map(np.asarray, flat(one)), map(np.asarray, flat(two)), strict=True)
    )


def flat(tree):
    import jax

    return jax.tree.leaves(tree)


def test_stochastic_chain_takes_one_step_too(mixture, tmp_path):
    config = mixture2d_stage2.get_config("tiny,stochastic")
    config.teacher = str(mixture / "stage1")
    run = guided_distill.load(trainer.run(config.to_dict(), tmp_path / "run", say=str))
    assert run.trained_steps == {8: 10, 4: 20, 2: 30, 1: 30}
    z = run.noise(6)
    cond = {"label": jnp.arange(6) % 4, "guidance": jnp.ones(6)}
    level = jnp.full((6,), schedules.Cosine()(1.0))
    np.testing.assert_allclose(run.sample(6, steps=1, noise=z), run.denoise(jnp.asarray(z), level, cond).x, atol=1e-5)
    with pytest.raises(UserError, match="trained for the sampler 'stochastic', not 'ddim'"):
        run.sample(4, sampler="ddim")


def test_encoder_goes_up_only(mixture, tmp_path):
    config = mixture2d_stage2.get_config("tiny,encoding")
    config.teacher = str(mixture / "stage1")
    run = guided_distill.load(trainer.run(config.to_dict(), tmp_path / "run", say=str))
    points = np.zeros((4, 2), np.float32)
    assert run.encode(points, steps=2, labels=np.arange(4)).shape == (4, 2)
    with pytest.raises(UserError, match="encoder"):
        run.sample(4)
    with pytest.raises(UserError, match=r"outside the range.*\[0, 0\]"):
        run.encode(points, guidance=1.0)


def test_bytes_are_encoded_as_the_images_that_they_are(digits):
    run = guided_distill.load(digits / "teacher")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(run.encode(images, steps=2), run.encode(images / 127.5 - 1, steps=2), atol=1e-5)
    with pytest.raises(UserError, match=r"images go from 0 to .*; expected uint8, or floats in \[-1, 1\]"):
        run.encode(np.float32(images), steps=2)


def test_teacher_encodes_and_decodes(mixture):
    run = guided_distill.load(mixture / "teacher")
    points = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    noise = run.encode(points, steps=256, labels=np.array([0, 2]))
    np.testing.assert_allclose(run.sample(2, 256, 0.0, np.array([0, 2]), noise=noise), points, atol=3e-2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 3}, "no student of 3 steps; trained: 4, 2, 1"),
        ({"steps": 0}, "not positive"),
        ({"guidance": 4.5}, r"guidance 4.5 is outside the range of .*\[0, 4\]"),
        ({"guidance": -0.5}, "outside the range"),
        ({"guidance": float("nan")}, "outside the range"),
        ({"sampler": "heun"}, "trained for the sampler 'ddim', not 'heun'"),
        ({"sampler": "euler"}, "unknown sampler 'euler'; valid: ddim"),
        ({"labels": 10}, "labels must be in 0 .. 9; got 10"),
        ({"labels": np.array([1, 2, 3])}, "one integer or 4"),
        ({"labels": np.array(1.5)}, "one integer or 4"),
        ({"noise": np.zeros((4, 8, 8, 3))}, r"noise must have shape \(4, 8, 8, 1\)"),
        ({"num": 0}, "num 0"),
        ({"seed": 2**32}, "seed 4294967296: expected 0 to 4294967295"),
        ({"batch_size": 0}, "batch_size 0 is not positive"),
    ],
)
def test_what_a_student_refuses(arguments, message, digits):
    run = guided_distill.load(digits / "stage2")
    with pytest.raises(UserError, match=message):
        run.sample(**{"num": 4, **arguments})


def test_a_run_from_before_there_was_a_choice_of_remat(digits, tmp_path):
    shutil.copytree(digits / "stage1", tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    manifest["network"]["args"]["remat"] = False
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    run = guided_distill.load(tmp_path / "run")
    assert run.manifest["network"]["args"]["remat"] == "none"
    np.testing.assert_array_equal(run.sample(2), guided_distill.load(digits / "stage1").sample(2))


def test_what_cannot_be_loaded(digits, tmp_path):
    with pytest.raises(UserError, match="no run in"):
        guided_distill.load(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; there are 4, 10, 14, 16"):
        guided_distill.load(digits / "stage2", step=5)
    shutil.copytree(digits / "stage1", tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="no checkpoint in"):
        guided_distill.load(tmp_path / "empty")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_told(damage, digits, tmp_path):
    shutil.copytree(digits / "stage1", tmp_path / "run")
    largest = max((tmp_path / "run/checkpoints/8/ema").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: largest.write_bytes(content),
        "truncate": lambda: largest.write_bytes(content[:9]),
        "remove": largest.unlink,
    }[damage]()
    with pytest.raises(UserError, match=r"checkpoint .*/8 is damaged"):
        guided_distill.load(tmp_path / "run").sample(2)


def test_a_save_that_died_half_way_does_not_count(digits, tmp_path):
    shutil.copytree(digits / "teacher", tmp_path / "run")
    (tmp_path / "run/checkpoints/12.sha256.json").unlink()
    assert checkpoint.Checkpoints(tmp_path / "run").latest() == 6
    trainer.run(digits_teacher.get_config("tiny").to_dict(), tmp_path / "run", say=str)
    ends = [guided_distill.load(where).sample(2, steps=2) for where in (digits / "teacher", tmp_path / "run")]
    np.testing.assert_array_equal(*ends)


def test_a_kill_inside_the_checksums_is_told_or_forgotten(digits, tmp_path):
    """A cut checksum file (of another program's making) is damage; an unfinished one beside it is not there at all."""
    shutil.copytree(digits / "teacher", tmp_path / "run")
    record = tmp_path / "run/checkpoints/12.sha256.json"
    record.with_name(record.name + ".part").write_text('{"a')
    assert checkpoint.Checkpoints(tmp_path / "run").latest() == 12
    record.write_text('{"a')
    with pytest.raises(UserError, match="is damaged"):
        guided_distill.load(tmp_path / "run").sample(2)


def test_a_run_keeps_its_manifest_and_notices_another_teacher(digits, tmp_path):
    shutil.copytree(digits / "stage1", tmp_path / "run")
    config = digits_stage1.get_config("tiny")
    config.teacher = str(digits / "teacher")
    before = (tmp_path / "run/manifest.json").read_text()
    trainer.run(config.to_dict(), tmp_path / "run", say=str)
    assert (tmp_path / "run/manifest.json").read_text() == before
    shutil.copytree(digits / "teacher", tmp_path / "teacher")
    record = tmp_path / "teacher/checkpoints/12.sha256.json"
    record.write_text(record.read_text() + "\n")
    config.teacher = str(tmp_path / "teacher")
    with pytest.raises(UserError, match="begun with another teacher"):
        trainer.run(config.to_dict(), tmp_path / "run", say=str)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_manifest_is_told(digits, tmp_path, content):
    shutil.copytree(digits / "stage1", tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        guided_distill.load(tmp_path / "run")


def test_weights_of_another_network_are_refused_leaf_by_leaf(digits, tmp_path):
    shutil.copytree(digits / "stage1", tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    manifest["network"]["args"]["channels"] = 16
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"does not fit: student/.* is \(.*expected"):
        guided_distill.load(tmp_path / "run").sample(2)


def test_a_work_directory_of_another_config_is_refused(digits, tmp_path):
    config = digits_teacher.get_config("tiny")
    config.optim.lr = 0.5
    with pytest.raises(UserError, match=r"belongs to another config \(optim.lr was 0.001, is 0.5\)"):
        trainer.run(config.to_dict(), digits / "teacher")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt and no run"):
        trainer.run(config.to_dict(), tmp_path)
    older = tmp_path / "older"
    shutil.copytree(digits / "teacher", older)
    before = json.loads((older / "config.json").read_text())
    del before["optim"]["warmup"]
    (older / "config.json").write_text(json.dumps(before))
    with pytest.raises(
        UserError, match=r"\(optim.lr was 0.001, is 0.5; optim.warmup was not there, is .*code that began"
    ):
        trainer.run(config.to_dict(), older)


def test_sample_verb_writes_grids_and_arrays(digits, tmp_path, capsys):
    run = str(digits / "stage2")
    assert (
        main(["sample", run, "--num=10", "--steps=4", "--guidance=2", "--labels=3,8", f"--out={tmp_path / 'a.png'}"])
        == 0
    )
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["sample", run, "--num=6", f"--out={tmp_path / 'b.npz'}"]) == 0
    found = np.load(tmp_path / "b.npz")
    assert found["images"].dtype == np.uint8 and found["images"].shape == (6, 8, 8, 1)
    assert found["labels"].tolist() == list(range(6)) and found["guidance"].tolist() == [1.0] * 6
    np.testing.assert_array_equal(found["images"], np.round((runs.load(run).sample(6) + 1) * 127.5).astype(np.uint8))
    for bad in (["--steps=3"], ["--guidance=9"], ["--labels=x"], ["--out=a.gif"], ["--sampler=heun"]):
        capsys.readouterr()
        assert main(["sample", run, "--num=2", *bad]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_evaluate_verb_measures_every_combination(digits, tmp_path, capsys):
    out = tmp_path / "e.json"
    command = [
        "evaluate",
        str(digits / "stage2"),
        "--num=60",
        "--steps=1,4",
        "--guidance=0,1",
        f"--teacher={digits / 'teacher'}",
    ]
    assert main([*command, f"--json={out}"]) == 0
    found = json.loads(out.read_text())
    assert [(r["steps"], r["guidance"]) for r in found["rows"]] == [(1, 0), (4, 0), (1, 1), (4, 1)]
    assert set(found["rows"][0]) >= {
        "frechet_distance",
        "precision",
        "recall",
        "class_variance",
        "paired_distance",
        "sampler",
    }
    assert found["num"] == 60 and found["features"] == "pixels" and found["reference"] == "digits:train"
    assert "frechet_distance" in capsys.readouterr().out
    assert main([*command, "--metrics=fid"]) == 2
    assert "frechet" in capsys.readouterr().err
