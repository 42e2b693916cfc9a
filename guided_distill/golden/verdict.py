"""A run held against a golden set: everything measured, judged and left in its directory."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from guided_distill import data, evaluate, parallel, sections
from guided_distill.errors import UserError
from guided_distill.files import write_json
from guided_distill.golden import checks, error_map, frozen, measure
from guided_distill.golden.measure import Bench
from guided_distill.report.chain import read_json
from guided_distill.runs import Run

RESULTS, FLOOR = "golden.json", "golden_floor.json"
STAGE_COLUMNS = ("stage", "steps", "before", "previous_distance", "paired_distance", "ratio", "skipped_distance")
METRIC_COLUMNS = (
    *("stage", "steps", "frechet_distance", "precision", "recall", "class_variance"),
    *("paired_distance", *checks.CONFUSIONS),
)
Say = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found. `results`: as RUN/golden.json has it."""

    results: dict[str, Any]
    checks: list[checks.Check]

    @property
    def exceeded(self) -> list[checks.Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.within]


def open_set(
    line: Sequence[Run],
    path: str | Path | None = None,
    make: bool = False,
    num: int | None = None,
    guidance: Sequence[float] | None = None,
    tolerances: Mapping[str, float] | None = None,
    w: tuple[float, float] | None = None,
    say: Say = print,
) -> frozen.Golden:
    """The set for a lineage: read from `path` (None: the first teacher's directory), or frozen there where none is and
    `make` says so. `w`: its range (None: what the lineage has in common). Raises `UserError` where there is none, and
    where it is of another range, or `num` or `guidance` are asked for and are not the frozen ones."""
    path, w = Path(path or line[0].dir / frozen.FILE), w or w_range([run.manifest for run in line])
    makes = make and not path.exists()
    if makes:
        manifest = line[0].manifest
        counts = data.load(**manifest["data"]).class_counts().tolist() if manifest["num_classes"] else None
        chosen = {"num": frozen.SIZE if num is None else num, "rungs": guidance, "tolerances": tolerances}
        golden = frozen.freeze(manifest["num_classes"], counts, w, **chosen)
        try:
            frozen.write(path, golden)
        except UserError:
            if not path.exists():  # Else another process has frozen one meanwhile, which must be what is asked for.
                raise
    golden = frozen.read(path)
    say(f"{path}: {len(golden.items)} items{' frozen' if makes else ''}, hash {golden.hash}")
    if golden.w_range != w:
        theirs, ours = (f"[{low:g}, {high:g}]" for low, high in (golden.w_range, w))
        raise UserError(
            f"{path} is frozen for w in {theirs}, and these runs of {line[0].dir} can be asked for {ours}; name a set "
            "of their range: --set=PATH (--make freezes it), in training config.golden=PATH"
        )
    asked = {"items": num, "rungs": guidance and tuple(sorted(set(guidance)))}
    has = {"items": len(golden.items), "rungs": golden.rungs}
    for name, value in asked.items():
        if value is not None and value != has[name]:
            raise UserError(f"{path} is frozen with {name} {has[name]}, not {value}; give another --set to freeze one")
    return golden


def open_bench(setting: str, manifest: Mapping[str, Any], source: data.Source) -> Bench:
    """For a student in training, `manifest`: the set of `config.golden`, "auto" being that of its first teacher, frozen
    where there is none, and the teacher's answers. Raises `UserError` for whatever could not be answered."""
    line = measure.lineage(manifest["teacher"][0]["run"])
    path, w = None if setting == frozen.AUTO else setting, w_range([*(run.manifest for run in line), manifest])
    golden = in_turn(lambda: open_set(line, path, path is None, w=w, say=str))
    return Bench(golden, line[0], source, evaluate.load_features("pixels")[1]).released()


def in_turn(opened: Callable[[], frozen.Golden]) -> frozen.Golden:
    """What `opened` returns to process 0, which may write it, and then to the others. Raises on all of them where
    process 0 is refused."""
    golden = refused = None
    if jax.process_index() == 0:
        try:
            golden = opened()
        except (UserError, OSError) as error:
            refused = error
    if parallel.same_everywhere(int(refused is not None)):
        raise refused or UserError("config.golden: process 0 has no golden set to ask, and says why")
    return opened() if golden is None else golden


def w_range(manifests: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The w that every run can be asked for; up to 4 where any w can be."""
    kinds = [manifest["guidance"] for manifest in manifests]
    ranges = [kind.get("range", (0.0, 0.0)) for kind in kinds if kind["kind"] != "external"]
    low, high = max((low for low, _ in ranges), default=0.0), min((high for _, high in ranges), default=frozen.W_MAX)
    return float(low), float(high)


def chance(bench: Bench, name: str, path: Path) -> tuple[dict[str, float | int], dict[str, float]]:
    """(what images of the data score against others, standard deviations of the teacher's metrics over sets of other
    noise), measured once for a set, a teacher, features and data, and kept in `path`."""
    teacher, golden = bench.teacher, bench.golden
    of = {"set": golden.hash, "teacher": teacher.hash, "features": getattr(bench.features, "identity", name)}
    of |= {"asked": bench.asked()}
    known = read_json(path) or {}
    if all(known.get(key) == value for key, value in of.items()):
        return known["floor"], known["spread"]
    num = int(golden.independent.sum())
    # `bench.real` is a reference of seed 0, and the floor is of images that it leaves out.
    floor = evaluate.floor(bench.source, bench.features, bench.real, num, seed=0, cache=evaluate.CACHE)
    seeds = range(golden.seed, golden.seed + checks.SEEDS)
    spread = bench.spread(seeds)
    write_json(path, {**of, "seeds": list(seeds), "floor": floor, "spread": spread})
    return floor, spread


def hold(
    line: Sequence[Run],
    golden: frozen.Golden,
    steps: Sequence[int] | None = None,
    seed: int | None = None,
    features: str = "pixels",
    weights: str | None = None,
    tolerances: Mapping[str, float] | None = None,
    say: Say = print,
) -> Verdict:
    """Measures a lineage, judges it, and leaves golden.json and a section for the report with its last run. `seed`: of
    the noise (None: the set's); `tolerances` override those of the set. Raises `UserError` where the last run has no
    stage after the teacher: a verdict without checks would pass."""
    wanted = measure.stages(line, steps)
    feature_name, function = evaluate.load_features(features, weights)
    bench = Bench(golden, line[0], data.images(**line[-1].manifest["data"]), function, seed)
    floor, spread = chance(bench, feature_name, line[0].dir / FLOOR)
    rows, slices = [], []
    for stage in wanted:
        say(f"{stage.run.dir}: {stage.title} steps")
        rows.append(bench.row(stage))
        slices += bench.slices(stage)
    cuts = sorted({stage.steps for stage in wanted if stage.name == measure.STUDENT}, reverse=True)
    plain = {n: bench.plain(n) for n in cuts}
    judged = checks.judge(rows, plain, spread, {**golden.tolerances, **(tolerances or {})})
    maps = {
        stage.run.dir.name: error_map.compute(line[0], stage.run, bench.source, bench.seed)
        for stage in wanted
        if stage.name == measure.STAGE_ONE
    }
    results = {
        "set": golden.hash,
        "items": len(golden.items),
        "features": feature_name,
        "seed": bench.seed,
        "reference": len(bench.real.features),
        "floor": floor,
        "spread": spread,
        "rows": rows,
        "plain": list(plain.values()),
        "slices": slices,
        "maps": maps,
        "checks": [{**check._asdict(), "within": check.within} for check in judged],
    }
    verdict = Verdict(results, judged)
    leave(line[-1].dir, verdict)
    return verdict


def leave(run_dir: Path, verdict: Verdict) -> None:
    """golden.json, and the section `golden` of the run's report."""
    results = verdict.results
    write_json(run_dir / RESULTS, results)
    pictures = []
    for name, found in results["maps"].items():
        file = f"golden_map_{name}.png"
        (run_dir / "sections").mkdir(exist_ok=True)
        error_map.draw(run_dir / "sections" / file, found)
        pictures.append({"title": f"Error of {name} in v, over log-SNR and w", "file": file})
    exceeded = verdict.exceeded
    lead = f"{len(exceeded)} of {len(verdict.checks)} tolerances are exceeded." if exceeded else "All within tolerance."
    on = f"{results['items']} items (set {results['set']}), noise of seed {results['seed']}, against "
    on += f"{results['reference']} images of the data, on {results['features']}."
    sections.write(run_dir, "golden", "Golden set", notes=[lead, on], tables=tables(verdict), pictures=pictures)


def tables(verdict: Verdict) -> list[dict[str, Any]]:
    """What was exceeded (or every check, where nothing was), the metrics, how losses add up, slices, maps."""
    results, exceeded = verdict.results, verdict.exceeded
    judged = [{**check._asdict(), "within": "yes" if check.within else "no"} for check in exceeded or verdict.checks]
    metrics = [{"stage": "images of the data", **results["floor"]}, *results["rows"], *results["plain"]]
    out = [
        table("Exceeded" if exceeded else "Tolerances", judged, (*checks.Check._fields, "within")),
        table("Against data and teacher", metrics, METRIC_COLUMNS),
        table("From stage to stage, from the same noise", results["rows"], STAGE_COLUMNS),
        table("Slices", results["slices"], ("stage", "steps", "slice", "num", "paired_distance", "mean", "variance")),
    ]
    for name, found in results["maps"].items():
        heads = [f"w = {w:g}" for w in found["guidance"]]
        cells = [
            {"log-SNR": level, **dict(zip(heads, values, strict=True))}
            for level, values in zip(found["logsnr"], found["v_error"], strict=True)
        ]
        out.append(table(f"Error of {name} in v: mean square of a dimension", cells, ("log-SNR", *heads)))
    return [shown for shown in out if shown["rows"]]


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """As `sections.write` takes it; without columns that no row has."""
    kept = [name for name in columns if any(name in row for row in rows)]
    return {"title": title, "columns": kept, "rows": [[row.get(name, "") for name in kept] for row in rows]}


def flat(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results as one flat object: stage_steps_metric -> number, and what they are on."""
    out = {name: results[name] for name in ("set", "items", "features", "seed", "reference")}
    out["checks"] = len(results["checks"])
    out["exceeded"] = sum(not check["within"] for check in results["checks"])
    for row in (*results["rows"], *results["plain"]):
        name = f"{row['stage']}_{row['steps']}".replace(" ", "_")
        out |= {f"{name}_{key}": value for key, value in row.items() if isinstance(value, float)}
    for check in results["checks"]:
        out[f"{check['stage']}_{check['steps']}_{check['tolerance']}_limit".replace(" ", "_")] = check["limit"]
    return out
