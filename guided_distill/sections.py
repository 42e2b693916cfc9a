"""What a command measured of a run, left in it for its report: RUN/sections/<name>.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guided_distill.files import write_json


def write(
    run_dir: str | Path,
    name: str,
    title: str,
    *,
    notes: Sequence[str] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Mapping[str, str]] = (),
) -> Path:
    """Writes the section `name` of a run's report, in place of an earlier one; returns its path.

    `notes`: paragraphs; `tables`: {"title", "columns": [name], "rows": [[cell]]}; `pictures`: {"title", "file"}, files
    beside the section (.png or .svg).
    """
    path = Path(run_dir) / "sections" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"title": title, "notes": list(notes), "tables": list(tables), "pictures": list(pictures)})
    return path
