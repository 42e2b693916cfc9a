"""What a compiled program sends between devices, from its HLO text: bytes of each kind of collective, loops counted as
often as they run.

Bytes are those of the whole arrays that a device takes part with: of an all-reduce, a reduce-scatter, an all-to-all and
a permutation what goes in, of an all-gather what comes out.
"""

import collections
import math
import re
from collections.abc import Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LINK_PASSES = {"all-reduce": 2.0}
"""How often the bytes pass a device's links: a ring reduces and then gathers; the others go round once."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*?)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)')
_BITS = re.compile(r"^(?:[suf]|bf)(\d+)")


def bytes_of(text: str) -> int:
    """Of an HLO type, such as "f32[8,3]{1,0}" or a tuple of them; tokens and the like are 0."""
    return math.ceil(sum(_bits(kind) * _elements(shape) for kind, shape in _ARRAY.findall(text)) / 8)


def count(hlo: str) -> dict[str, int]:
    """{kind: bytes a device takes part with in one run of the program}, of the kinds that there are.

    Of a conditional every branch counts. A loop counts as often as the compiler says; where it says nothing (TPUs), as
    the one integer says that its condition holds (JAX's scans count from 0 to it); or else once.
    """
    sent, calls, entry = _read(hlo)
    times: dict[str, int] = collections.Counter()

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for called, trips in calls.get(name, ()):
            visit(called, factor * trips)

    if entry is not None:
        visit(entry, 1)
    out: dict[str, int] = collections.Counter()
    for name, factor in times.items():
        for kind, amount in sent.get(name, ()):
            out[kind] += factor * amount
    return {kind: out[kind] for kind in KINDS if kind in out}


def link_bytes(counted: Mapping[str, int]) -> float:
    """Bytes that leave a device over its links, as rings send them: (n - 1) / n is taken for 1."""
    return sum(LINK_PASSES.get(kind, 1.0) * amount for kind, amount in counted.items())


def _read(hlo: str) -> tuple[dict, dict, str | None]:
    """({computation: [(kind, bytes)]}, {computation: [(computation it runs, how often)]}, the entry)."""
    sent, calls, entry, current = collections.defaultdict(list), collections.defaultdict(list), None, None
    types: dict[str, str] = {}
    bounds: dict[str, list[int]] = collections.defaultdict(list)  # Integer constants of each computation.
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            current, types = head[2], {}
            entry = current if head[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if current is None or not found:
            continue
        name, result, operation, rest = found.groups()
        types[name] = result
        if operation == "constant" and re.match(r"[su]\d+\[\]", result):
            bounds[current].append(int(rest.partition(")")[0]))
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            given = sum(bytes_of(types.get(operand, "")) for operand in _operands(rest))
            # An all-gather that is begun here has what it is given in its result, beside what it gathers.
            gathered = bytes_of(result) - (given if operation != kind else 0)
            sent[current].append((kind, gathered if kind == "all-gather" else given))
            continue  # What reduces is no program of its own.
        trips = _trips(rest, bounds) if operation == "while" else 1
        called = _CALLED.findall(rest)
        for branches in _BRANCHES.findall(rest):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        calls[current] += [(other, trips) for other in called]
    return sent, calls, entry


def _trips(rest: str, bounds: Mapping[str, list[int]]) -> int:
    """Of a while instruction; what it calls stands before it in the text."""
    if known := _TRIPS.search(rest):
        return int(known[1])
    condition = _CONDITION.search(rest)
    found = bounds.get(condition[1], []) if condition else []
    return found[0] if len(found) == 1 else 1


def _operands(rest: str) -> list[str]:
    """Names between the parentheses of an instruction, whatever types stand before them."""
    depth, end = 1, len(rest)
    for k, letter in enumerate(rest):
        depth += (letter in "({[") - (letter in ")}]")
        if not depth:
            end = k
            break
    return re.findall(r"%([\w.\-]+)", rest[:end])


def _bits(kind: str) -> int:
    found = _BITS.match(kind)
    return int(found[1]) if found else {"pred": 8, "c64": 64, "c128": 128}.get(kind, 0)


def _elements(shape: str) -> int:
    return math.prod(int(length.lstrip("<=")) for length in shape.split(",") if length)
