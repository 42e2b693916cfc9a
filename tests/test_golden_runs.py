"""Golden sets and runs: opened by the verb and by training, once for all, or refused in time."""

import json
import shutil
from typing import ClassVar

import numpy as np
import pytest

from configs import mixture2d_stage2
from guided_distill import data, evaluate, prediction, runs, stages, trainer
from guided_distill.__main__ import main
from guided_distill.errors import UserError
from guided_distill.golden import checks, error_map, frozen, measure, verdict
from guided_distill.golden.measure import STAGE_ONE, STUDENT, TEACHER

REFERENCE = 500


@pytest.fixture(autouse=True, scope="module")
def few():
    """Images of the data: fewer than are meant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "REFERENCE", REFERENCE)
        yield


@pytest.fixture
def chain(mixture, tmp_path):
    """A copy of the tiny chain, to be written to."""
    return shutil.copytree(mixture, tmp_path / "chain")


def test_a_set_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    path, write = tmp_path / "set.json", frozen.write_json

    def late(place, value):
        path.write_text("theirs")
        write(place, value)

    monkeypatch.setattr(frozen, "write_json", late)
    with pytest.raises(UserError, match="never made anew"):
        frozen.write(path, frozen.freeze(4, num=100))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("set.json", "theirs")]


def test_a_set_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"no golden set can be frozen at .*set\.json.*--set=PATH"):
        frozen.write(tmp_path / "file" / "set.json", frozen.freeze(4, num=100))


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("refused", [None, UserError("read-only"), PermissionError("read-only")])
def test_processes_open_a_set_in_turn_and_agree(monkeypatch, process, refused):
    golden, events = frozen.freeze(4, num=100), []

    def opened():
        events.append("opened")
        if refused:
            raise refused
        return golden

    def told(value):  # By process 0 to all.
        events.append("told")
        return value if process == 0 else int(refused is not None)

    monkeypatch.setattr(verdict.jax, "process_index", lambda: process)
    monkeypatch.setattr(verdict.parallel, "same_everywhere", told)
    if refused:
        kind, said = (UserError, "process 0 has no golden set") if process else (type(refused), "read-only")
        with pytest.raises(kind, match=said):
            verdict.in_turn(opened)
    else:
        assert verdict.in_turn(opened) is golden
    assert events == {0: ["opened", "told"], 1: ["told"] if refused else ["told", "opened"]}[process]


class Begun(runs.Run):
    """A halved chain in its first round."""

    trained_steps: ClassVar = {}


def test_what_has_no_stage_to_hold_is_refused(mixture, chain, capsys):
    assert main(["golden", str(chain / "teacher"), "--make"]) == 2
    assert "there is no student to hold" in capsys.readouterr().err
    assert not (chain / "teacher" / frozen.FILE).exists()
    line = measure.lineage(mixture / "stage2")
    with pytest.raises(UserError, match="has not finished a round yet"):
        measure.stages([*line[:2], Begun(line[2].dir)])


def test_a_set_of_another_range_of_w_is_refused(chain, tmp_path, capsys):
    teacher = measure.lineage(chain / "teacher")
    verdict.open_set(teacher, make=True, num=100, w=(0.3, 0.3), say=str)  # As a student of a single w would.
    assert main(["golden", str(chain / "stage2"), "--make", "--steps=1"]) == 2
    assert "frozen for w in [0.3, 0.3]" in (told := capsys.readouterr().err) and "[0, 4]" in told and "--set" in told
    line = measure.lineage(chain / "stage2")
    made = verdict.open_set(line, tmp_path / "set.json", make=True, num=100, say=str)
    assert made.w_range == (0.0, 4.0) and len(made.rungs) > 1


@pytest.mark.parametrize("range_of_theirs", [None, (0.3, 0.3)])
def test_of_two_that_freeze_at_once_one_reads_what_the_other_froze(chain, monkeypatch, range_of_theirs):
    line, freeze, path = measure.lineage(chain / "stage2"), frozen.freeze, chain / "teacher" / frozen.FILE

    def late(classes, counts, w, **others):
        frozen.write(path, freeze(classes, counts, range_of_theirs or w, **others))
        return freeze(classes, counts, w, **others)

    monkeypatch.setattr(frozen, "freeze", late)
    if range_of_theirs:
        with pytest.raises(UserError, match="--set"):
            verdict.open_set(line, make=True, say=str)
    else:
        assert verdict.open_set(line, make=True, say=str) == frozen.read(path)


def mapped_error(mixture, monkeypatch, student):
    """The map of the exact teacher and of `student`, a Denoiser in the place of stage one's."""
    teacher, run = runs.load(mixture / "teacher"), runs.load(mixture / "stage1")
    exact = runs.bind(teacher.manifest)
    monkeypatch.setattr(runs, "bind", lambda manifest: exact if manifest is teacher.manifest else lambda _: student)
    found = error_map.compute(teacher, run, data.load(**teacher.manifest["data"]), num=32)
    return np.array(found["guidance"]), np.array(found["v_error"])


def test_the_map_of_a_student_that_does_not_hear_w(mixture, monkeypatch):
    """(1 + w) c - w u less c is w (c - u), so its error is w² times that at w = 1, at every log-SNR."""
    exact = runs.load(mixture / "teacher").denoise
    deaf = lambda z, logsnr, cond: exact(z, logsnr, {**cond, "guidance": 0 * cond["guidance"]})  # noqa: E731
    w, table = mapped_error(mixture, monkeypatch, deaf)
    assert w[0] == 0 and w[-1] == 4 and np.all(table[:, 1] > 1e-6)
    np.testing.assert_allclose(table, table[:, 1:2] * (w / w[1]) ** 2, rtol=1e-3, atol=1e-9)


def test_the_map_is_in_v(mixture, monkeypatch):
    """A student that is off by 0.3 in v, and so by 0.3 sigma in x, is off by 0.09 in every cell."""
    exact = runs.load(mixture / "teacher").denoise
    off = lambda z, logsnr, cond: prediction.from_v(exact(z, logsnr, cond).v(logsnr) + 0.3, z, logsnr)  # noqa: E731
    _, table = mapped_error(mixture, monkeypatch, off)
    np.testing.assert_allclose(table, 0.09, rtol=1e-3)


def test_the_verb_measures_and_tells_by_its_status(chain, capsys):
    run = str(chain / "stage2")
    assert main(["golden", run]) == 2 and "--make" in capsys.readouterr().err
    limits = [f"--tolerance={name}=1e9" for name in checks.NAMES]
    assert main(["golden", run, "--make", "--num=100", "--steps=1", "--json", *limits]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"] == 100 and found["exceeded"] == 0 and not [v for v in found.values() if isinstance(v, dict)]
    results = json.loads((chain / "stage2" / "golden.json").read_text())
    assert [row["stage"] for row in results["rows"]] == [TEACHER, STAGE_ONE, STUDENT]
    assert results["set"] == frozen.read(chain / "teacher" / frozen.FILE).hash == found["set"]
    student = results["rows"][-1]
    assert student["before"] == "student, 2" and student["ratio"] > 0
    assert results["rows"][1]["previous_distance"] == results["rows"][1]["paired_distance"]
    shape = np.shape(results["maps"]["stage1"]["v_error"])
    assert shape == (8, 5)
    section = json.loads((chain / "stage2" / "sections" / "golden.json").read_text())
    assert (chain / "stage2" / "sections" / section["pictures"][0]["file"]).is_file()
    with pytest.raises(SystemExit) as end:
        main(["golden", run, "--steps=1", "--tolerance=paired_distance=0"])
    told = capsys.readouterr().out
    assert end.value.code == 1 and "Exceeded" in told and found["set"] in told
    assert main(["golden", run, "--num=120"]) == 2 and "is frozen with items 100" in capsys.readouterr().err


def test_training_answers_the_set_after_every_round(chain, tmp_path):
    config = mixture2d_stage2.get_config("tiny")
    config.teacher, config.golden = str(chain / "stage1"), "auto"
    run = trainer.run(config.to_dict(), tmp_path / "run", say=str)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    answers = [row for row in rows if row["kind"] == "golden"]
    assert [row["step"] for row in answers] == [end for _, end in runs.load(run).manifest["rounds"]]
    line = measure.lineage(run)
    golden = frozen.read(chain / "teacher" / frozen.FILE)
    bench = measure.Bench(golden, line[0], data.load("mixture2d"), evaluate.load_features("pixels")[1])
    again = bench.row(measure.stages(line)[-1])
    assert answers[-1]["paired_distance"] == pytest.approx(again["paired_distance"], rel=1e-5)
    assert answers[-1]["recall"] == pytest.approx(again["recall"], abs=0.01)
    other = measure.Bench(golden, line[0], data.load("mixture2d", num=500), evaluate.load_features("pixels")[1])
    # What chance is on one is not what it is on the other.
    assert other.asked() != bench.asked() == bench.at(7).asked()


def other_range(chain):
    verdict.open_set(measure.lineage(chain / "stage1"), make=True, num=100, say=str)
    return "tiny,w=1", "auto"


def other_classes(chain):
    frozen.write(chain / "other.json", frozen.freeze(7, num=100, w_range=(0.0, 4.0)))
    return "tiny", str(chain / "other.json")


def no_first_teacher(chain):
    path = chain / "stage1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["teacher"][0] |= {"run": "moved/away", "hash": "another"}
    path.write_text(json.dumps(manifest))
    return "tiny", "auto"


def no_place(chain):
    (chain / "teacher" / frozen.FILE).symlink_to(chain / "nowhere" / "set.json")
    return "tiny", "auto"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (other_range, r"frozen for w in \[0, 4\].* \[1, 1\].*config.golden=PATH"),
        (other_classes, "is for 7 classes"),
        (no_first_teacher, "its directory is not here; a golden set needs it"),
        (no_place, "exists, and a frozen set"),
    ],
)
def test_a_set_that_cannot_be_answered_ends_training_before_its_first_update(chain, tmp_path, spoil, told):
    arguments, asked = spoil(chain)
    config = mixture2d_stage2.get_config(arguments)
    config.teacher, config.golden = str(chain / "stage1"), asked
    with pytest.raises(UserError, match=told):
        trainer.run(config.to_dict(), tmp_path / "run", say=str)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != "checkpoints"] == ["lock"]
    assert not runs.Checkpoints(tmp_path / "run").steps()
    config.golden = ""
    trainer.require_own(tmp_path / "run", stages.build(config.to_dict()))  # The directory is not spoilt by it.


def test_a_round_is_saved_before_its_answers_are_measured(chain, tmp_path, monkeypatch):
    config = mixture2d_stage2.get_config("tiny")
    config.teacher, config.golden = str(chain / "stage1"), "auto"

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(trainer.Preview, "golden", broken)
    with pytest.raises(ZeroDivisionError):
        trainer.run(config.to_dict(), tmp_path / "run", say=str)
    first = runs.read_manifest(tmp_path / "run")["rounds"][0][1]
    assert runs.Checkpoints(tmp_path / "run").latest() == first


def test_a_run_from_before_there_was_the_key_goes_on(chain, capsys):
    path = chain / "stage2" / "config.json"
    before = json.loads(path.read_text())
    del before["golden"]
    path.write_text(json.dumps(before))
    config = mixture2d_stage2.get_config("tiny")
    config.teacher = str(chain / "stage1")
    trainer.run(config.to_dict(), chain / "stage2", say=print)
    assert "trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"golden": "nowhere.json"}, "no golden set at nowhere.json"),
        ({"golden": "auto", "encoding": True}, "for objective 'encoding'|not for objective"),
    ],
)
def test_a_set_that_cannot_be_answered_is_refused_when_the_stage_is_built(mixture, change, told):
    config = mixture2d_stage2.get_config("tiny,encoding" if change.pop("encoding", False) else "tiny")
    config.teacher, config.golden = str(mixture / "stage1"), change["golden"]
    with pytest.raises(UserError, match=told):
        stages.build(config.to_dict())
