"""Rows of an experiment: DIR/results.json, resumable; DIR/hardware.json, on what and for how long."""

import argparse
import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from guided_distill import launch, manifests, trainer
from guided_distill.errors import UserError
from guided_distill.files import write_json

KEY = ("method", "sampler", "steps", "guidance", "seed")
DOCS = Path(__file__).parents[1] / "docs" / "results"


class Results:
    """A list of rows {method, sampler, steps, evaluations, guidance, seed, one key a metric, commit, device}; a row
    that stands is not computed again, unless its `weights` are others than those asked for."""

    def __init__(self, workdir: Path, published: Path | None = None, **settings: Any):
        """`settings`: what all rows share, their sample count say. `published`: the rows of elsewhere (of `publish`) to
        go on from, which stand whatever their weights. Raises `UserError` if those of `workdir` or of `published` were
        made otherwise."""
        self.workdir = workdir
        self._path, self._hardware = workdir / "results.json", workdir / "hardware.json"
        known = self._known()
        if known.setdefault("settings", settings) != settings:
            raise UserError(f"{workdir} was made with {known['settings']}, not {settings}; choose another --workdir")
        self.rows: list[dict[str, Any]] = json.loads(self._path.read_text()) if self._path.is_file() else []
        if published:
            self._take(published, settings)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(self._hardware, known)
        self._made = {"commit": manifests.provenance()["git_commit"], "device": device()}

    def _take(self, published: Path, settings: Mapping[str, Any]) -> None:
        """Rows of elsewhere that do not stand here."""
        try:
            found = json.loads(published.read_text())
            theirs, rows = found["settings"], found["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{published} holds no published rows: {error}") from error
        if theirs != settings:
            raise UserError(f"{published} was made with {theirs}, not {settings}")
        self.rows += [{**row, "taken": True} for row in rows if not self.standing(row)]

    def standing(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of a key, whatever their weights."""
        return [row for row in self.rows if all(row[name] == key[name] for name in KEY)]

    def taken(self, key: Mapping[str, Any]) -> bool:
        """Whether the row of a key was made elsewhere."""
        return any(row.get("taken") for row in self.standing(key))

    def row(
        self, key: Mapping[str, Any], evaluations: int, compute: Callable[[], Mapping[str, float]]
    ) -> dict[str, Any]:
        """The row of `key` (its method, sampler, steps, guidance and seed; `weights`: a hash of what it is made with),
        computed and written unless it stands."""
        for row in self.standing(key):
            # None: a row from before they were told.
            if row.get("taken") or row.get("weights") in (None, key.get("weights")):
                return row
            self.rows.remove(row)
        row = {**key, "evaluations": evaluations, **compute(), **self._made}
        self.rows.append(row)
        write_json(self._path, self.rows)
        shown = {k: v for k, v in row.items() if k not in ("seed", "weights", *self._made)}
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items()), flush=True)
        return row

    def table(self, columns: tuple[str, ...]) -> str:
        """The rows as a Markdown table of these columns."""
        return markdown(self.rows, columns)

    def train(self, config, name: str, seed: int, teacher: Path | None = None) -> Path:
        """Trains a config in workdir/name with `seed`, from where it stopped; adds its seconds to hardware.json."""
        config.seed = seed
        if teacher is not None:
            config.teacher = str(teacher)
        with self.timed(name):
            return trainer.run(
                config.to_dict(), self.workdir / name, say=lambda text: launch.say(text) if text[0] != "+" else None
            )

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds of what is done within to hardware.json, as those of `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:  # What was stopped has taken its time, too.
            self.spent(name, time.perf_counter() - begin)

    def _known(self) -> dict[str, Any]:
        return json.loads(self._hardware.read_text()) if self._hardware.is_file() else {"seconds": {}}

    def spent(self, name: str, seconds: float) -> None:
        """Adds to the seconds of a part."""
        known = self._known()
        known["device"] = device()
        known["jax"] = jax.__version__
        known["seconds"][name] = round(known["seconds"].get(name, 0.0) + seconds, 1)
        write_json(self._hardware, known)


def device() -> str:
    """What this runs on, for people."""
    return f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {_processor()}"


def arguments(description: str, workdir: Path | None = None) -> argparse.ArgumentParser:
    """--workdir (required where there is no default), --seed and --tiny, which every experiment has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workdir",
        type=Path,
        required=workdir is None,
        default=workdir,
        help="where runs and results.json go; run again to go on" + (f" (default {workdir})" if workdir else ""),
    )
    parser.add_argument("--seed", type=int, default=0, help="of training and of the noise (default 0)")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes: shows that everything runs")
    return parser


def start(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    publish: Callable[[Path], None],
    pages: str,
) -> None:
    """Parses the command line and runs; or, with --publish, writes `pages` of what is in the work directory."""
    parser.add_argument("--publish", action="store_true", help=f"write docs/results/{pages} of what is there")
    args = parser.parse_args()
    if args.publish:
        publish(args.workdir)
    else:
        launch.prepare_process()
        run(args)


def markdown(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows as a Markdown table; a row without a column's key has a dash there."""
    show = lambda value: "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    lines = [[name.replace("_", " ") for name in columns], ["---"] * len(columns)]
    lines += [[show(row.get(name)) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read(directory: Path) -> tuple[list[dict], dict]:
    """(rows, hardware) of an experiment. Raises `UserError` where it has none."""
    if missing := [name for name in ("results.json", "hardware.json") if not (directory / name).is_file()]:
        raise UserError(f"{directory} has no {' and no '.join(missing)}: run its experiment there first")
    return tuple(json.loads((directory / name).read_text()) for name in ("results.json", "hardware.json"))


def write_rows(directory: Path, path: Path) -> None:
    """Writes an experiment's rows to a file from which others can go on (`--rows`)."""
    rows, hardware = read(directory)
    kept = [{key: value for key, value in row.items() if key != "taken"} for row in rows]
    write_json(path, {"settings": hardware["settings"], "hardware": hardware, "rows": kept})


def devices(rows: list[dict[str, Any]]) -> str:
    """Where rows were made, for people."""
    return "; ".join(sorted({row["device"] for row in rows if "device" in row}))


def spent(hardware: dict) -> str:
    """Where and how long, for people."""
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in hardware["seconds"].items() if seconds >= 1)
    return f"{hardware['device']}, jax {hardware['jax']}; minutes of training: {parts}"


def readme(docs: Path, name: str, text: str) -> None:
    """Puts a text, a table say, between its marks in the README two folders above `docs`, where they are."""
    path = docs.parents[1] / "README.md"
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if path.is_file() and begin in path.read_text() and end in path.read_text():
        before, _, rest = path.read_text().partition(begin)
        path.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}")
