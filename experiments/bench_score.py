"""What scores cost: memory against the number of images, seconds of each metric, Inception-v3 beside torch-fidelity's.

    python -m experiments.bench_score --workdir=DIR [--parts=memory,neighbours,network,inception] [--tiny]
    python -m experiments.bench_score --workdir=DIR --publish       # docs/results/score.md, from DIR alone

Every row is a process of its own. `inception` needs PyTorch and torch-fidelity, which nothing else does. A part that
stands in DIR is not measured again.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import Results, arguments, markdown
from experiments.timing import compared, interleave, load
from guided_distill import extraction, image_sets, mapped
from guided_distill.errors import one_of
from guided_distill.features import Net, efficientnet_lite0, inception, pixels
from guided_distill.files import write_text
from guided_distill.metrics import FeatureSet
from guided_distill.scoring import measures

SIZE = 32  # Of images.
PARTS = {
    "memory": [("pixels", n, "fd,kid") for n in (50_000, 20_000, 5_000)],
    "neighbours": [("pixels", n, "pr") for n in (5_000, 10_000)],
    "network": [("efficientnet_lite0", n, "fd,kid,is,pr") for n in (1_000, 5_000)],
    "inception": [("inception", 64, "")],
}
REFERENCE = {"efficientnet_lite0": 1_000}  # Images of the reference; else as many as are scored.
OUT = Path(__file__).parents[1] / "docs" / "results" / "score.md"


def images(num: int, seed: int) -> Iterator[np.ndarray]:
    """uint8 [some, 32, 32, 3]: noise of many scales about a colour, a thousand at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, num, 1000):
        n = min(1000, num - start)
        x = rng.uniform(-0.5, 0.5, (n, 1, 1, 3))
        for side in (2, 4, 8, 16, 32):
            x = x + rng.normal(0, 0.25, (n, side, side, 3)).repeat(SIZE // side, 1).repeat(SIZE // side, 2)
        yield np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


def stored(path: Path, num: int, seed: int) -> image_sets.ImageSet:
    """The images as a file on disk, memory-mapped."""
    if not path.is_file():
        with mapped.whole(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (num, SIZE, SIZE, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for part in images(num, seed):
                file.write(part.data)
    return image_sets.of_array(np.load(path, mmap_mode="r"))


def highest() -> float:
    """The most memory that this process has had resident, in MiB, its mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(features: str, num: int, metrics: str, workdir: Path) -> dict[str, Any]:
    """Peak memory, and seconds of extraction and of each metric."""
    counts = {"fake": num, "real": min(num, REFERENCE.get(features, num))}
    sets = {name: stored(workdir / f"{n}-{k}.npy", n, k) for k, (name, n) in enumerate(counts.items())}
    net = efficientnet_lite0.make() if features == "efficientnet_lite0" else pixels.make()
    row: dict[str, Any] = {"images": num, "reference": counts["real"], "before": highest(), "load": load()}
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        begin = time.perf_counter()
        found = {k: extraction.extract(net, s, Path(folder) / k, isinstance(net, Net)) for k, s in sets.items()}
        row["extraction"] = time.perf_counter() - begin
        row["files"] = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        fake, real = (FeatureSet(found[k][0], None, found[k][1]) for k in ("fake", "real"))
        for name in metrics.split(","):
            begin = time.perf_counter()
            measures.MEASURES[name](fake, measures.Reference(real))
            row[name] = time.perf_counter() - begin
            row[f"peak after {name}"] = highest()
    return row


def beside_torch(num: int, workdir: Path, repeats: int = 5) -> dict[str, Any]:
    """Our Inception-v3 and torch-fidelity's, with the same random weights, on the same images in turn."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    rng, weights = np.random.default_rng(0), {}
    for name, shape in inception.expected().items():
        bound = (6 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.2
        weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32) + np.float32(name.endswith("_var"))
    if "torch_fidelity" not in sys.modules:  # Its own imports ask for more than PyTorch.
        spec = importlib.util.find_spec("torch_fidelity")
        sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)
    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    norms = [name.removesuffix(".weight") for name in weights if name.endswith(".bn.weight")]
    state = {name: torch.tensor(array) for name, array in weights.items()}
    state |= {f"{name}.num_batches_tracked": torch.tensor(0) for name in norms}
    path, taps = workdir / "inception.pth", ["2048", "logits_unbiased"]
    torch.save(state, path)
    extractor = theirs("inception", taps, feature_extractor_weights_path=str(path)).eval()
    pictures = next(images(num, 0))
    batch, ours = torch.tensor(pictures).permute(0, 3, 1, 2), inception.apply_of("torch-fidelity", *taps)
    net = Net("Inception", "random", None, inception.params_of(weights), None, num, ours)

    def of_torch() -> np.ndarray:
        with torch.no_grad():
            return [found.numpy() for found in extractor(batch)]

    programs = {
        "ours": lambda: extraction.in_memory(net, image_sets.of_array(pictures), True),
        "torch-fidelity": of_torch,
    }
    pairs = zip(programs["ours"](), programs["torch-fidelity"](), strict=True)
    apart = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    seconds = interleave(programs, repeats, warmups=1)
    found = compared(seconds["torch-fidelity"], seconds["ours"])
    rates = {"ours": num / found["against"], "torch-fidelity": num / found["median"]}
    ratios = {"ratio": found["ratio"], "low": found["low"], "high": found["high"]}
    return {"images": num, "repeats": repeats, **rates, **ratios, "apart": apart, "torch": torch.__version__}


def publish(workdir: Path) -> None:
    """docs/results/score.md."""
    rows = json.loads((workdir / "results.json").read_text())
    hardware = json.loads((workdir / "hardware.json").read_text())
    rows = sorted(rows, key=lambda row: row["steps"])
    part = {name: [row for row in rows if row["method"] == name] for name in PARTS}
    loads = [row["load"] for row in rows if "load" in row]
    told = HEADER.format(device=hardware["device"], jax=hardware["jax"], load=max(loads))
    texts = [told, markdown(part["memory"], (*COUNTED, "before", "peak after fd", "peak after kid", "fd", "kid"))]
    texts += [NEIGHBOURS, markdown(part["neighbours"], (*COUNTED, "before", "peak after pr", "pr"))]
    network = ("images", "reference", "extraction", "before", "peak after pr", "fd", "kid", "is", "pr")
    texts += [NETWORK, markdown(part["network"], network)]
    if part["inception"]:
        texts += [INCEPTION.format(**part["inception"][0]), markdown(part["inception"], PACE)]
    write_text(OUT, "\n\n".join(texts) + "\n")


COUNTED = ("images", "reference", "files", "extraction")
PACE = ("images", "ours", "torch-fidelity", "ratio", "low", "high", "apart")
HEADER = """# What scores cost

Made by `python -m experiments.bench_score --publish` from the results of `python -m experiments.bench_score`; no number
is typed by hand. Images are 32 x 32 x 3, made up; each row is a process of its own. Memory is in MiB: the most that
was resident, mapped files included, `before` features are taken (Python, JAX, the libraries) and after each
metric; `files` is what the features of both sets take on disk. `extraction` and the metrics are in seconds of that run,
with BLAS on one core.

On {device}; jax {jax}. Other work ran beside it (load per core up to {load}),
so seconds tell orders of magnitude only, and memory and ratios are what to read.

## Memory, on raw pixels (3,072 dimensions)"""
NEIGHBOURS = """## Precision and recall, on raw pixels

Every image against all others, so the seconds grow with the square of their number. Memory does not: what is kept is
the distances of each image to its three neighbours."""
NETWORK = """## EfficientNet-Lite0 (1,280 features and 1,000 logits in one pass)"""
INCEPTION = """## Inception-v3 beside torch-fidelity

Features and logits of {images} images, 32 x 32 resized to 299 x 299, images/s; the same random weights, in one process,
in turn, {repeats} rounds; `ratio` is ours over torch-fidelity's ({torch}, one batch), of medians, with its range over
rounds; `apart`: the largest difference of features or logits, over the largest value."""


def main(argv: list[str] | None = None) -> None:
    """Measures what is missing in results.json; or publishes it."""
    parser = arguments(__doc__, Path("runs/bench_score"))
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated of {', '.join(PARTS)}")
    parser.add_argument("--publish", action="store_true", help="write docs/results/score.md from what is there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        features, num, metrics = json.loads(args.one)
        row = (
            beside_torch(num, args.workdir)
            if features == "inception"
            else measured(features, num, metrics, args.workdir)
        )
        print(json.dumps(row))
        return
    if args.publish:
        publish(args.workdir)
        return
    results = Results(args.workdir, tiny=args.tiny)
    results.spent("all", 0.0)
    for part in args.parts.split(","):
        one_of("part", part, PARTS)
        for features, num, metrics in PARTS[part]:
            num = max(16, num // 250) if args.tiny else num
            key = {"method": part, "sampler": features, "steps": num, "guidance": None, "seed": 0}
            results.row(key, 0, functools.partial(_alone, json.dumps([features, num, metrics]), args.workdir))


def _alone(told: str, workdir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bench_score", f"--workdir={workdir}", f"--one={told}"]
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
    }  # Threads that wait for each other on a busy machine crawl.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
