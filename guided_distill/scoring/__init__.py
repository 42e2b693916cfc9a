"""Two sets of images, wherever they are, and what their distance is in numbers: what the verb `score` prints.

from guided_distill import scoring
scoring.score("samples/", "data:digits")["fd"]
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill import evaluate, extraction
from guided_distill.errors import UserError, one_of
from guided_distill.features import Features, inception
from guided_distill.image_sets import ImageSet
from guided_distill.metrics import FeatureSet
from guided_distill.scoring import measures
from guided_distill.scoring.sets import RECOMMENDED, Draw, Given, opened

STANDARD = inception.SHA256
SPREAD = ("fd", "kid", "inception_score", "precision", "recall")
KEYS = (
    *("fd", "kid", "kid_std", "inception_score", "inception_score_std", "precision", "recall"),
    *("num_fake", "num_real", "floor", "fingerprint"),
)
"""Always there, None where they were not measured."""
NEAREST = ("nearest_median", "nearest_percentile", "nearest_limit", "nearest_share")


def score(
    fake: str,
    real: str,
    *,
    features: str | None = None,
    weights: str | None = None,
    preprocessing: str | None = None,
    metrics: Sequence[str] = tuple(measures.MEASURES),
    draw: Draw = RECOMMENDED,
    seeds: Sequence[int] = (0,),
    floor: bool = True,
    cache: Path | None = None,
) -> dict[str, Any]:
    """{name: number, text or None}: `KEYS`, and more. `fake` and `real` are named as `sets.opened` reads them.

    features: of images, by name ("pixels" unless said); two sets of ready features need none. draw: how `fake` is
    sampled if it is a run; several `seeds` give means and `*_spread`, standard deviations over them. A run as `real` is
    sampled as it recommends, from noise of its own: of the seed after the largest. floor: whether to take that of the
    data too. Features and statistics of `real` are kept in `cache` (None: nowhere), the others in a temporary folder
    while it lasts. Raises `UserError` for sets that cannot be compared.
    """
    for name in metrics:
        one_of("metric", name, measures.MEASURES)
    fakes, reals = opened(fake), opened(real)
    _check_draw(fakes, reals, draw, seeds)
    label, network = _network(fakes, reals, features, weights, preprocessing)
    wanted = "is" in metrics and getattr(network, "both", None) is not None
    with tempfile.TemporaryDirectory() as folder:
        drawn = [
            _featured(fakes, fakes.drawn(draw, seed), network, Path(folder) / f"fake{seed}", wanted) for seed in seeds
        ]
        images = reals.drawn(Draw(draw.num), max(seeds) + 1)
        count = len(reals.ready.features) if images is None else len(images)
        fingerprint = _fingerprint(network, reals, images, count)
        kept = cache / fingerprint if cache and reals.run is None else None
        stem = kept if kept and hasattr(network, "identity") else Path(folder) / "real"
        reference = measures.Reference(_featured(reals, images, network, stem, False), kept)
        found = [measures.measure(list(metrics), one, reference) for one in drawn]
        num = len(drawn[0].features)
        least, why = measures.floor(num, reference.features) if floor and "fd" in metrics else (None, None)
    values = _combined([values for values, _ in found])
    notes = dict.fromkeys([*_told(fakes, reals, network), *(note for _, told in found for note in told), why])
    values |= {"num_fake": num, "num_real": count, "floor": least, "fingerprint": fingerprint}
    return {
        **{key: values.get(key) for key in (*KEYS, *NEAREST, *(f"{key}_spread" for key in SPREAD))},
        "features": label,
        "fd_name": fd_name(label, network),
        "preprocessing": getattr(network, "preprocessing", None) or None,
        "seeds": ",".join(map(str, seeds)) if fakes.run else None,
        **(draw.resolved(fakes.run) if fakes.run else dict.fromkeys(("steps", "guidance", "sampler", "hash"))),
        "notes": "; ".join(filter(None, notes)) or None,
    }


def fd_name(label: str, network: Features | None) -> str:
    """FID on the features of Inception-v3 with the standard weights only, else FD-<features>."""
    standard = label == inception.NAME and getattr(network, "identity", "").endswith(STANDARD)
    return "FID" if standard else f"FD-{label}"


def _check_draw(fakes: Given, reals: Given, draw: Draw, seeds: Sequence[int]) -> None:
    """Before anything is computed."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {','.join(map(str, seeds))} must differ, and there must be one")
    if draw.num is not None and (draw.num < 1 or not (fakes.run or reals.run)):
        told = "is not positive" if draw.num < 1 else "samples of a run: neither set is one"
        raise UserError(f"num {draw.num} {told}")
    run = fakes.run
    if run is None and (len(seeds) > 1 or draw[1:] != RECOMMENDED[1:]):
        raise UserError(f"steps, guidance, sampler and seeds are a run's; {fakes.name} is none")
    if draw.sampler is not None:
        run.check_sampler(draw.sampler)
    if draw.guidance is not None:
        run.check_guidance(np.asarray(draw.guidance))


def _network(
    fakes: Given, reals: Given, features: str | None, weights: str | None, preprocessing: str | None
) -> tuple[str, Features | None]:
    """(what features are called by, the function; None where both sets are ready features)."""
    ready = [given.name for given in (fakes, reals) if given.ready is not None]
    if len(ready) == 2:
        if features:
            raise UserError(f"{' and '.join(ready)} hold features already; leave --features out")
        if weights or preprocessing:
            raise UserError(
                f"{' and '.join(ready)} hold features already: --weights and --preprocessing change nothing"
            )
        return "given", None
    if ready and not features:
        raise UserError(f"{ready[0]} holds features; say with --features which ones, so that images get the same")
    arguments = {"preprocessing": preprocessing} if preprocessing else {}
    label, network = evaluate.load_features(features or "pixels", weights, **arguments)
    if not ready and not hasattr(network, "apply") and fakes.shape != reals.shape:
        shapes = " and ".join("x".join(map(str, given.shape)) for given in (fakes, reals))
        raise UserError(
            f"features {label} compare images of one shape, not {shapes}; bring them to one, or take a network"
        )
    return label, network


def _featured(given: Given, images: ImageSet | None, network: Features | None, stem: Path, logits: bool) -> FeatureSet:
    """Ready features, or those of images, memory-mapped."""
    if images is None:
        return given.ready
    found, of_logits = extraction.extract(network, images, stem, logits)
    return FeatureSet(found, None, of_logits)


def _fingerprint(network: Features | None, reals: Given, images: ImageSet | None, num: int) -> str:
    """sha256 over what the network is (name, weights, tap, size) and what the reference is (where it comes from, its
    contents, how many)."""
    identity = "given" if network is None else getattr(network, "identity", extraction.name_of(network))
    parts = (identity, getattr(network, "preprocessing", ""), reals.origin, reals.digest(images), str(num))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _combined(rows: list[measures.Values]) -> dict[str, float | None]:
    """Means over seeds, and standard deviations of SPREAD where there are several."""
    out = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if all(key in row for row in rows)}
    if len(rows) > 1:
        out |= {f"{key}_spread": float(np.std([row[key] for row in rows], ddof=1)) for key in SPREAD if key in out}
    return out


def _told(fakes: Given, reals: Given, network: Features | None) -> Iterator[str]:
    if network is not None:
        for given in (fakes, reals):
            if given.ready is not None:
                yield f"the features in {given.name} are taken to be of {extraction.name_of(network)}"
