"""What can be scored, by how it is named: an image folder, an npz file, a run, a data set."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_distill import data, evaluate, files, image_sets, mapped, plugins, runs
from guided_distill.codecs import require_finite, to_uint8
from guided_distill.errors import UserError
from guided_distill.image_sets import ImageSet
from guided_distill.metrics import FeatureSet

NUM = 1000  # Samples of a run, unless it is said.


class Draw(NamedTuple):
    """How a run is sampled; None is NUM, and what it recommends."""

    num: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None

    def resolved(self, run: runs.Run) -> dict[str, Any]:
        """What a run is sampled with, all of it said."""
        recommended = run.manifest["recommended"]["guidance"]
        return {
            "steps": run.default_steps() if self.steps is None else self.steps,
            "guidance": recommended if self.guidance is None else self.guidance,
            "sampler": self.sampler or run.manifest["sampler"],
            "hash": run.hash,
        }


RECOMMENDED = Draw()


@dataclasses.dataclass(frozen=True)
class Given:
    """One of `images`, `ready` features, and a `run` that is still to be sampled. `shape` of an image, None of
    features; `origin`: what a fingerprint names besides the contents."""

    name: str
    origin: str
    shape: tuple[int, ...] | None
    images: ImageSet | None = None
    ready: FeatureSet | None = None
    run: runs.Run | None = None

    def drawn(self, how: Draw, seed: int) -> ImageSet | None:
        """The images; those of a run are its samples, to 8 bits, as they would be saved. None of ready features."""
        if self.run is None:
            return self.images
        num = NUM if how.num is None else how.num
        told = {}
        if self.run.manifest.get("text"):
            told = evaluate.told(self.run.manifest, data.images(**self.run.manifest["data"]), num)
        samples = self.run.sample(num, how.steps, how.guidance, seed=seed, sampler=how.sampler, **told)
        require_finite(samples, self.name)
        return image_sets.of_array(to_uint8(samples) if samples.ndim == 4 else samples)

    def digest(self, images: ImageSet | None) -> str:
        """sha256 of the contents."""
        return files.sha256(Path(self.name)) if images is None else images.digest()


def opened(name: str) -> Given:
    """What `name` stands for. Raises `UserError` for what is none of these, and as they do."""
    path = Path(name)
    if name.startswith("data:"):
        return _of_data(name)
    if (path / "manifest.json").is_file():
        run = runs.load(path)
        return Given(name, "run", tuple(run.manifest["shape"]), run=run)
    if path.is_dir():
        images = image_sets.of_folder(path)
        return Given(name, "folder", images.shape, images)
    if path.suffix == ".npz" and path.is_file():
        return _of_npz(path)
    raise UserError(f"{name} is no folder of images, .npz file, run directory or data:NAME[:SPLIT]")


def _of_data(name: str) -> Given:
    """data:NAME[:SPLIT][:KEY=VALUE...], the latter for the data set."""
    spec = plugins.spec(name, "data", "name", "split")
    images = image_sets.of_source(data.images(**spec))
    return Given(name, f"data:{spec['name']}:{spec.get('split', 'train')}", images.shape, images)


def _of_npz(path: Path) -> Given:
    arrays = mapped.npz(path)
    if "images" in arrays:
        images = image_sets.of_npz(path, arrays["images"])
        if not len(images):
            raise UserError(f"no images in {path}")
        return Given(str(path), "npz", images.shape, images)
    if "features" not in arrays:
        raise UserError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected images or features")
    features, logits = arrays["features"], arrays.get("logits")
    for what, array in (("features", features), ("logits", logits)):
        if array is not None and (array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(features)):
            found = f"{array.dtype} {list(array.shape)}"
            raise UserError(f"{path}: {what} are {found}; expected floats [n, d], a row a sample")
    if not len(features):
        raise UserError(f"no features in {path}")
    return Given(str(path), "features", None, ready=FeatureSet(np.asarray(features), None, logits))
