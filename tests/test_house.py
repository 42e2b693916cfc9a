"""The house: who may import whom, what every file of a folder must have, what the budgets are."""

import ast
import gc
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import codecs, data, features, metrics, plugins
from guided_distill.errors import UserError
from guided_distill.objectives import Nets
from guided_distill.schedules import Cosine
from guided_distill.weighting import make as make_weighting

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "guided_distill"
LAYERS = [line.split() for line in (PACKAGE / "order.txt").read_text().splitlines()]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def room(path: Path) -> str:
    """The module or folder right below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def test_every_room_is_in_the_order():
    rooms = {room(path) for path in SOURCES}
    assert rooms <= set(LEVEL), rooms - set(LEVEL)


@pytest.fixture(autouse=True)
def no_collection():
    """CPython 3.11's parser miscounts its depth, and raises SystemError, where garbage is collected while it builds a
    tree: JAX's callback runs Python then."""
    gc.disable()
    yield
    gc.enable()


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "guided_distill":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("guided_distill.")}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = room(path)
    above = {name for name in imported(path) if name != own and LEVEL.get(name, 99) >= LEVEL[own]}
    assert not above, f"{own} (layer {LEVEL[own]}) imports {above}"


@pytest.mark.parametrize(
    "path",
    [p for p in ROOT.rglob("*.py") if not any(part[0] == "." for part in p.relative_to(ROOT).parts)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_budgets(path):
    text = path.read_text()
    tree, is_test = ast.parse(text), "tests" in path.parts
    assert is_test or text.count("\n") <= 350
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not is_test:
            assert node.end_lineno - node.lineno < 60, node.name
    for node in tree.body:
        if not path.is_relative_to(PACKAGE) or not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.returns is not None, node.name
            assert all(a.annotation for a in arguments), node.name


def test_main_is_short():
    assert (ROOT / "main.py").read_text().count("\n") <= 60


def test_training_and_sampling_need_no_tensorflow_or_torch():
    """They cannot be imported here. (A logger that JAX's checkpoints bring along takes PyTorch where there is one.)"""
    code = "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'torch')); import main, guided_distill.__main__"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("name", plugins.names("data"))
def test_every_data_set(name):
    try:
        source = data.load(name)
    except UserError as error:  # It is not prepared, or the user's own, and known by its path.
        pytest.skip(str(error))
    part = source[np.array([5, 0, 7])]
    assert part["x"].shape == (3, *source.info.shape) and part["x"].dtype in (np.uint8, np.float32)
    np.testing.assert_array_equal(part["x"][1], source[0]["x"])
    assert source.info.licence
    if source.info.num_classes:
        assert part["label"].dtype == np.int32
        assert len(source.class_counts()) == source.info.num_classes and source.class_counts().all()
        assert source.class_counts().sum() == len(source)
    again = data.load(name)
    np.testing.assert_array_equal(again[3]["x"], source[3]["x"])


@pytest.mark.parametrize("name", plugins.names("codecs"))
def test_every_codec_returns_what_it_encodes(name):
    try:
        codec = codecs.load(name)
    except UserError as error:  # A network, whose weights are given by path.
        pytest.skip(str(error))
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1.0)
    code = codec.encode(x)
    assert code.shape[1:] == codec.shape(x.shape[1:])
    np.testing.assert_allclose(codec.decode(code), x, atol=0.1)


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric(name):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    fake, real = (metrics.FeatureSet(draw((64, 3)), np.arange(64) % 4, draw((64, 5))) for _ in range(2))
    out = plugins.resolve("metrics", name).compute(fake, real)
    assert out and all(isinstance(value, float) and np.isfinite(value) for value in out.values())


@pytest.mark.parametrize("name", plugins.names("features"))
def test_every_feature_function(name):
    module = plugins.resolve("features", name)
    try:
        make = module.make()
    except UserError as error:  # A package with its weights, which is not installed everywhere.
        pytest.skip(str(error))
    out = make(np.zeros((3, 8, 8, 1), np.float32))
    assert module.NAME and out.shape[0] == 3 and out.ndim == 2 and out.dtype == np.float64
    assert features.Features


@pytest.mark.parametrize("name", plugins.names("objectives"))
def test_every_objective(name, ring):
    make = importlib.import_module(f"guided_distill.objectives.{name}").make
    known = {
        "schedule": Cosine(),
        "weighting": make_weighting("uniform"),
        "null": {"label": 4},
        "w_min": 0.0,
        "w_max": 4.0,
    }
    arguments = {n: known[n] for n, p in inspect.signature(make).parameters.items() if p.default is p.empty}
    nets = Nets(student=ring, teacher=ring)
    batch = {"x": jnp.ones((6, 2)), "label": jnp.arange(6) % 4}
    losses, extra = make(**arguments)(jax.random.key(0), nets, batch, jnp.int32(4))
    assert (
        losses["student"].shape == (6,) and bool(jnp.all(jnp.isfinite(losses["student"]))) and isinstance(extra, dict)
    )


@pytest.mark.parametrize("name", plugins.names("cli"))
def test_every_verb_explains_itself(name, capsys):
    from guided_distill.__main__ import main

    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and "usage" in capsys.readouterr().out
