"""Teachers of two networks, and which students do not fit a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_stage1, digits_stage2, digits_teacher, mixture2d_stage1
from guided_distill import data, runs, stages, teachers, trainer
from guided_distill.errors import UserError


def quiet(*_):
    """Nothing is said."""


def test_a_second_network_as_the_unconditional_half(mixture, tmp_path):
    """The same exact network twice is the single guided teacher, by two forwards; both are frozen leaves."""
    config = mixture2d_stage1.get_config("tiny")
    config.teacher = config.teacher_unconditional = str(mixture / "teacher")
    pair = stages.build(config.to_dict())
    config.teacher_unconditional = ""
    single = stages.build(config.to_dict())
    batch = {name: jnp.asarray(value) for name, value in next(data.batches(pair.source, 64, 0)).items()}
    states = [jax.jit(stage.init)(stage.leaves(stage.layout())) for stage in (pair, single)]
    assert set(states[0].teacher) == {"teacher", "unconditional"}
    losses = [float(stage.steps[0](of, batch)[1]["loss"]) for stage, of in zip((pair, single), states, strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 1e-3


def test_a_network_without_classes_guides_one_with_them(digits, tmp_path):
    config = digits_teacher.get_config("tiny")
    config.data.classes = False
    config.sampling.guidance = 0.0
    unconditional = trainer.run(config.to_dict(), tmp_path / "unconditional", say=quiet)
    assert runs.load(unconditional).sample(2, steps=2).shape == (2, 8, 8, 1)
    config = digits_stage1.get_config("tiny")
    config.teacher, config.teacher_unconditional = str(digits / "teacher"), str(unconditional)
    stage = stages.build(config.to_dict())
    state_of = jax.jit(stage.init)(stage.leaves(stage.layout()))
    batch = {name: jnp.asarray(value) for name, value in next(data.batches(stage.source, 16, 0)).items()}
    assert np.isfinite(float(jax.jit(stage.steps[0])(state_of, batch)[1]["loss"]))
    assert [of["run"] for of in stage.manifest["teacher"]] == [str(digits / "teacher"), str(unconditional)]


def answers(teacher, z, logsnr, cond):
    """v of a teacher, guided."""
    leaves = {name: run.weights() for name, run in teacher._runs(True).items()}
    return teacher.bind(True)(leaves)(z, logsnr, cond).x


@pytest.fixture(scope="module")
def pairs(digits, tmp_path_factory):
    """Teachers of digits without label dropout, guided in an interval, and a state to ask them of."""
    config = digits_teacher.get_config("tiny")
    config.objective.dropout, config.objective.guidance_interval, config.sampling.guidance = 0.0, (-1.0, 1.0), 0.0
    undropped = trainer.run(config.to_dict(), tmp_path_factory.mktemp("pairs") / "undropped", say=quiet)
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    cond = {"label": jnp.arange(3), "guidance": jnp.full(3, 2.0)}
    return digits / "teacher", undropped, (z, jnp.asarray([-2.0, 0.5, 2.0]), cond)


def test_the_second_network_guides_where_the_first_says(pairs):
    """c + w (c - u) inside of the interval that the main run was given, c outside; without dropout, too."""
    other, main, (z, logsnr, cond) = pairs
    teacher = teachers.load(str(main), str(other), "")
    one, two = runs.load(main), runs.load(other)
    c = one.denoise(z, logsnr, {**cond, "guidance": jnp.zeros(3)}).x
    u = two.denoise(z, logsnr, {"label": jnp.full(3, 10), "guidance": jnp.zeros(3)}).x
    inside = jnp.asarray([0.0, 1.0, 0.0])[:, None, None, None]
    np.testing.assert_allclose(answers(teacher, z, logsnr, cond), c + 2 * inside * (c - u), atol=1e-5)
    assert float(jnp.abs(c - u).max()) > 1e-3


def test_a_second_network_that_knows_no_null_class_is_told_the_same(pairs):
    """Autoguidance: there is nothing else that it could be asked."""
    main, other, (z, logsnr, cond) = pairs
    teacher = teachers.load(str(main), str(other), "")
    c, weak = (runs.load(run).denoise(z, logsnr, {**cond, "guidance": jnp.zeros(3)}).x for run in (main, other))
    np.testing.assert_allclose(answers(teacher, z, logsnr, cond), c + 2 * (c - weak), atol=1e-5)


def test_a_student_leads_away_from_nothing(digits):
    with pytest.raises(UserError, match="is no student, but a teacher"):
        teachers.load(str(digits / "teacher"), str(digits / "stage1"), "")


def test_a_chain_with_dropout_does_not_begin_at_a_network_that_is_told_w(digits):
    config = digits_stage2.get_config("tiny")
    config.objective.w_max, config.objective.w_min_share, config.objective.dropout = 0.0, 0.0, 0.2
    config.sampling.guidance, config.teacher = 0.0, str(digits / "stage1")
    with pytest.raises(UserError, match="has learned nothing of the null class"):
        stages.build(config.to_dict())
