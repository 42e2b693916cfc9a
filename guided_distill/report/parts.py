"""What commands measured of the runs of a chain besides: RUN/sections/*.json (see `guided_distill.sections`), as parts
of the page that can be unfolded."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guided_distill.report.chain import Node, read_json
from guided_distill.report.rows import is_number, show

KINDS = {".png": "png", ".svg": "svg+xml"}
BUDGET = 1_500_000  # Bytes of all pictures before they are base64.


def of_runs(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """[{"title", "run", "notes", "tables", "pictures", "troubles"}] of all sections of all runs, in their order; one
    that cannot be read is a line of trouble. "tables": [{"title", "columns": [(name, whether numbers)], "rows"}],
    "pictures": [{"title", "uri"}]."""
    out, left = [], BUDGET
    for node in nodes:
        for path in sorted(node.key.glob("sections/*.json")):
            try:
                part, spent = _part(path, left)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                empty = {"title": path.stem, "notes": [], "tables": [], "pictures": []}
                part, spent = {**empty, "troubles": [f"{path.name} of {node.name} is damaged: {error}"]}, 0
            out.append({"run": node.name, **part})
            left -= spent
    return out


def _part(path: Path, left: int) -> tuple[dict[str, Any], int]:
    """(a section, bytes of its pictures, of which `left` may be spent). Raises for what is no section."""
    document = read_json(path)
    if not isinstance(document, Mapping):
        raise ValueError("it is not a JSON object")
    notes, tables = [str(note) for note in document["notes"]], [_table(table) for table in document["tables"]]
    pictures, troubles, spent = [], [], 0
    for picture in document["pictures"]:
        name = str(picture["file"])
        # A name alone, so that a section never reaches out of its folder.
        found = path.parent / name if Path(name).name == name and Path(name).suffix in KINDS else None
        if found is None or not found.is_file():
            troubles.append(f"picture {name} is not beside {path.name}")
        elif (size := found.stat().st_size) > left - spent:
            troubles.append(f"picture {name} is left out: its {size / 1e6:.1f} MB are too much for the page")
        else:
            data = base64.b64encode(found.read_bytes()).decode()
            uri = f"data:image/{KINDS[found.suffix]};base64,{data}"
            pictures.append({"title": str(picture["title"]), "uri": uri})
            spent += size
    part = {"title": str(document["title"]), "notes": notes, "tables": tables, "pictures": pictures}
    return {**part, "troubles": troubles}, spent


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    rows, columns = [list(row) for row in table["rows"]], [str(name) for name in table["columns"]]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"a row of its table {table['title']!r} has not {len(columns)} cells")
    numeric = [any(map(_is_like_a_number, cells)) for cells in zip(*rows, strict=True)] or [False] * len(columns)
    shown = [[show(cell) for cell in row] for row in rows]
    return {"title": str(table["title"]), "columns": list(zip(columns, numeric, strict=True)), "rows": shown}


def _is_like_a_number(cell: Any) -> bool:
    """A number, or text such as "0.5" and "0.17 ± 0.01"."""
    if not isinstance(cell, str):
        return is_number(cell)
    try:
        return math.isfinite(float(cell.partition(" ± ")[0]))
    except ValueError:
        return False
