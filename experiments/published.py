"""Figures of the papers that the tables are held against: found in print in the source named, or recalled.

A recalled one was not found in a source that could be read: it stands in brackets and is never called published. FID
and IS are on Inception-v3, against the training set, or for captions against the pictures that they are of.
"""

import dataclasses
from collections.abc import Iterator, Mapping

RECALLED = "recalled as Meng et al. 2023, not verified"
GD = "Meng et al. 2023, as tabulated by Heek et al. 2024 (Multistep Consistency Models, table 5)"
BOARD = "Meng et al. 2023, as a public leaderboard lists it"
PD = "Salimans & Ho 2022, unconditional"
PD64 = "progressive distillation, as tabulated by Song et al. 2023 (Consistency Models)"
CFG = "Ho & Salimans 2022, their sampler and steps"
COCO = (
    "Meng et al. 2023 on COCO-2017, as tabulated by Liu et al. 2024 (InstaFlow) and Sauer et al. 2023 (ADD), of a w "
    "that was not found there"
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number of a paper's cell: `metric` is "FID", "IS" or "CLIP", the mean cosine of pictures and their captions;
    `steps` 0 is a sampler and steps of the source's own, `guidance` None a strength that was not found; of `num`
    samples."""

    method: str
    steps: int
    guidance: float | None
    metric: str
    value: float
    source: str
    num: int = 50_000

    @property
    def verified(self) -> bool:
        """Whether it was found in print."""
        return self.source != RECALLED

    def __str__(self) -> str:
        return f"{self.value:g}" if self.verified else f"[{self.value:g}]"


# (FID, IS) by steps and w; D the deterministic student, S the stochastic one.
GUIDANCE = (0.0, 0.3, 1.0, 4.0)
STUDENT = {
    1: ((22.7, 25.5), (14.85, 37.1), (7.54, 75.2), (18.7, 157)),
    4: ((4.14, 46.6), (2.17, 69.6), (7.95, 129), (26.5, 207)),
    8: ((2.79, 50.7), (2.05, 76.0), (9.33, 136), (26.6, 203)),
    16: ((2.44, 52.5), (2.20, 79.5), (9.99, 139), (26.5, 204)),
}
STOCHASTIC = {
    1: ((26.9, 23.6), (18.5, 33.3), (8.92, 67.8), (17.9, 149)),
    2: (None, (5.81, None), None, None),
    4: ((3.91, 48.9), (2.24, 73.7), (8.51, 135), (27.3, 217)),
    8: ((2.44, 55.0), (2.31, 79.5), (10.6, 140), (27.8, 220)),
    16: ((2.10, 57.8), (2.56, 87.5), (11.6, 146), (27.7, 219)),
}
TEACHER = {1024: ((2.92, 44.8), (2.36, 74.8), (9.84, 140), (23.9, 225))}
PRINTED = {  # Of the three above, the FIDs that were found in print.
    ("student", 1, 1.0): BOARD,
    **{("stochastic student", n, 0.3): GD for n in (1, 2, 4, 8)},
}
CFG_TEACHER = {0.0: (1.80, 53.7), 0.1: (1.55, 66.1), 0.3: (3.03, 92.8), 1.0: (12.6, 170), 4.0: (26.2, 260)}


def _grid(method: str, cells: Mapping[int, tuple]) -> Iterator[Figure]:
    for steps, pairs in cells.items():
        for w, pair in zip(GUIDANCE, pairs, strict=True):
            for metric, value in zip(("FID", "IS"), pair or (), strict=False):
                if value is not None:
                    source = PRINTED.get((method, steps, w), RECALLED) if metric == "FID" else RECALLED
                    yield Figure(method, steps, w, metric, value, source)


FIGURES: dict[str, tuple[Figure, ...]] = {
    "imagenet64": (
        *_grid("teacher", TEACHER),
        *(
            Figure("teacher", 0, w, metric, value, CFG)
            for w, pair in CFG_TEACHER.items()
            for metric, value in zip(("FID", "IS"), pair, strict=True)
        ),
        *_grid("student", STUDENT),
        *_grid("stochastic student", STOCHASTIC),
        *(
            Figure("unguided student", n, 0.0, "FID", fid, PD64)
            for n, fid in ((1, 15.39), (2, 8.95), (4, 6.77))
        ),
    ),
    "laion512": tuple(
        Figure("student", n, None, metric, value, COCO, 5_000)
        for n, pair in ((1, (37.2, 0.275)), (2, (26.0, 0.297)), (4, (26.4, 0.300)))
        for metric, value in zip(("FID", "CLIP"), pair, strict=True)
    ),
    "cifar10": tuple(
        Figure("unguided student", n, 0.0, "FID", fid, PD) for n, fid in ((8, 2.57), (4, 3.00), (2, 4.51), (1, 9.12))
    ),
}  # fmt: skip
