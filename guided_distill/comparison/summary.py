"""What the votes say: shares with intervals, agreement, strengths; as tables, as one flat dict, and in runs' reports.

A pair counts once: its outcome is the mean of the votes on it, a tie half a win each. So several raters of one pair are
not taken for as many pairs, and intervals are those of the number of pairs. People are one group; a model is one for
itself, with both orders of a pair as its votes on it. Only pairs that it judged both ways round by its latest rubric
count.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from guided_distill import sections
from guided_distill.comparison import JUDGE, Comparison
from guided_distill.comparison.ranking import bradley_terry, cohen, fleiss, wilson
from guided_distill.comparison.votes import Vote

TIES = "A tie is half a win for each; a pair counts once, as the mean of the votes on it; intervals are 95 %."
PEOPLE = "people"


def summarise(comparison: Comparison, votes: Sequence[Vote]) -> dict[str, Any]:
    """{"pairs", "groups": {"people" or "judge:MODEL": ...}, "agreement": [...], "fleiss_kappa"}.

    A group: "votes", "pairs", "ties" (share), "left" (share of pairs with a decided vote that went to the left side),
    "matches" (every two systems), "systems" (each against all others, and its Bradley-Terry strength in log odds), and
    of a model "flips", the share of pairs on which it says something else when they are turned round, and "outdated",
    how many pairs are left out because a vote on them is by an earlier rubric.
    """
    known = {pair.id for pair in comparison.pairs}
    votes = [vote for vote in votes if vote.pair in known]
    by_rater = {rater: [v for v in votes if v.rater == rater] for rater in sorted({v.rater for v in votes})}
    outdated = {rater: _outdated(own) for rater, own in by_rater.items()}
    by_rater = {rater: [v for v in own if v.pair not in outdated[rater]] for rater, own in by_rater.items()}
    people = [rater for rater in by_rater if not rater.startswith(JUDGE)]
    groups = {PEOPLE: [v for rater in people for v in by_rater[rater]]} if people else {}
    groups |= {rater: own for rater, own in by_rater.items() if rater.startswith(JUDGE)}
    shown = {name: _group(comparison, own, name != PEOPLE) for name, own in groups.items()}
    for name in shown.keys() - {PEOPLE}:
        shown[name]["outdated"] = len(outdated[name])
    verdicts = {rater: _verdicts(comparison, own, rater.startswith(JUDGE)) for rater, own in by_rater.items()}
    return {
        "pairs": len(comparison.pairs),
        "raters": {rater: len(found) for rater, found in verdicts.items()},
        "groups": shown,
        "agreement": [_agreement(a, b, verdicts) for a, b in itertools.combinations(verdicts, 2)],
        "fleiss_kappa": _fleiss([verdicts[rater] for rater in people]),
    }


def _outdated(votes: Sequence[Vote]) -> set[str]:
    """Pairs with a vote of a rater's that is not by the same rubric as its latest."""
    return {vote.pair for vote in votes if vote.rubric != votes[-1].rubric}


def _by_pair(votes: Sequence[Vote], both: bool) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.pair, []).append(vote)
    return {pair: own for pair, own in found.items() if not both or len(own) == 2}


def _verdicts(comparison: Comparison, votes: Sequence[Vote], both: bool) -> dict[str, str]:
    """pair -> what a rater says of it: the earlier listed of its systems, the later, or a tie, which is also what a
    model says that contradicts itself."""
    systems, out = {pair.id: pair.systems for pair in comparison.pairs}, {}
    for pair, own in _by_pair(votes, both).items():
        winners = {vote.winner for vote in own}
        winner = winners.pop() if len(winners) == 1 else None
        out[pair] = "tie" if winner is None else "earlier" if winner == systems[pair][0] else "later"
    return out


def _group(comparison: Comparison, votes: Sequence[Vote], both: bool) -> dict[str, Any]:
    names = list(comparison.systems)
    by_pair = _by_pair(votes, both)
    used = [vote for own in by_pair.values() for vote in own]
    shares = np.zeros((len(names), len(names)))  # [i, j]: pairs that i won against j.
    for pair in comparison.pairs:
        if own := by_pair.get(pair.id):
            i, j = map(names.index, pair.systems)
            share = np.mean([0.5 if v.winner is None else float(v.winner == names[i]) for v in own])
            shares[i, j] += share
            shares[j, i] += 1 - share
    decided = [found for own in by_pair.values() if (found := [vote for vote in own if vote.winner is not None])]
    left = float(sum(np.mean([vote.winner == vote.left for vote in own]) for own in decided))
    ties = sum(vote.winner is None for vote in used)
    out = {
        "votes": len(used),
        "pairs": len(by_pair),
        "ties": ties / len(used) if used else None,
        "left": _share(left, len(decided)),
        "matches": [
            {"system": names[i], "against": names[j], **_share(shares[i, j], shares[i, j] + shares[j, i])}
            for i, j in itertools.combinations(range(len(names)), 2)
        ],
        "systems": _systems(names, shares),
    }
    if both:
        flips = sum(len({vote.winner for vote in own}) > 1 for own in by_pair.values())
        out["flips"] = _share(flips, len(by_pair))
    return out


def _systems(names: Sequence[str], shares: np.ndarray) -> list[dict[str, Any]]:
    """Strongest first; last those without votes, whose strength is None."""
    voted = np.flatnonzero(shares.sum(0) + shares.sum(1))
    strengths, rows = bradley_terry(shares[np.ix_(voted, voted)]) if len(voted) else None, []
    for n in np.argsort(-strengths.values, kind="stable").tolist() if strengths else ():
        (low, high), k = strengths.interval(n), voted[n]
        row = {"system": names[k], **_share(shares[k].sum(), shares[k].sum() + shares[:, k].sum())}
        row |= {"strength": float(strengths.values[n]), "strength_low": low, "strength_high": high}
        rows.append(row | {"regularised": strengths.regularised})
    unknown = dict.fromkeys(("strength", "strength_low", "strength_high")) | {"regularised": False}
    return rows + [{"system": name, **_share(0, 0), **unknown} for k, name in enumerate(names) if k not in voted]


def _share(wins: int | float, num: int | float) -> dict[str, Any]:
    low, high = wilson(wins, num)
    return {"share": float(wins / num) if num else None, "low": low, "high": high, "num": round(num)}


def _agreement(one: str, two: str, verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    common = sorted(verdicts[one].keys() & verdicts[two].keys())
    first, second = ([verdicts[rater][pair] for pair in common] for rater in (one, two))
    raw = float(np.mean([a == b for a, b in zip(first, second, strict=True)])) if common else None
    return {"raters": f"{one} and {two}", "pairs": len(common), "agreement": raw, "kappa": cohen(first, second)}


def _fleiss(verdicts: Sequence[Mapping[str, str]]) -> float | None:
    """Of the pairs that all people have judged."""
    if len(verdicts) < 2:
        return None
    common = set.intersection(*(set(found) for found in verdicts))
    kinds = ("earlier", "later", "tie")
    counts = [[sum(found[pair] == kind for found in verdicts) for kind in kinds] for pair in sorted(common)]
    return fleiss(np.array(counts, int).reshape(-1, len(kinds)))


def flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as one flat dict: people/student/share, people/teacher over student/low, judge:m/flips/share, ..."""
    out = {"pairs": summary["pairs"], "fleiss_kappa": summary["fleiss_kappa"]}
    for name, group in summary["groups"].items():
        out |= {f"{name}/{key}": group[key] for key in ("votes", "pairs", "ties", "outdated") if key in group}
        for key in ("left", "flips"):
            out |= {f"{name}/{key}/{part}": value for part, value in group.get(key, {}).items()}
        for row in group["systems"]:
            out |= {f"{name}/{row['system']}/{key}": value for key, value in row.items() if key != "system"}
        for row in group["matches"]:
            match = f"{name}/{row['system']} over {row['against']}"
            out |= {f"{match}/{key}": row[key] for key in ("share", "low", "high", "num")}
    for row in summary["agreement"]:
        out |= {f"{row['raters']}/{key}": row[key] for key in ("pairs", "agreement", "kappa")}
    return out


def tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"title", "columns", "rows"} of text, as `sections.write` and `show` take them."""
    out = []
    for name, group in summary["groups"].items():
        title = f"{name}: {group['votes']} votes on {group['pairs']} of {summary['pairs']} pairs"
        strengths = [_strength(row) for row in group["systems"]]
        rows = [[row["system"], _text(row), row["num"], text] for row, text in zip(group["systems"], strengths)]
        columns = ["system", "wins against the others", "pairs", "strength, log odds"]
        out.append({"title": title, "columns": columns, "rows": rows})
        if len(group["systems"]) > 2:
            rows = [[row["system"], row["against"], _text(row), row["num"]] for row in group["matches"]]
            out.append({"title": f"{name}: every two", "columns": ["system", "against", "wins", "pairs"], "rows": rows})
    habits = [[name, _number(g["ties"]), _text(g["left"]), _text(g.get("flips"))] for name, g in _groups(summary)]
    columns = ["votes of", "ties", "the left or first side wins", "verdict changes when turned round"]
    out.append({"title": "Habits", "columns": columns, "rows": habits})
    if summary["agreement"]:
        keys = ("raters", "pairs", "agreement", "kappa")
        rows = [[row[key] if key in keys[:2] else _number(row[key]) for key in keys] for row in summary["agreement"]]
        kappa = _number(summary["fleiss_kappa"])
        title = "Agreement of raters" + (f"; Fleiss' kappa of all people {kappa}" if kappa != "-" else "")
        out.append({"title": title, "columns": ["raters", "pairs", "the same verdict", "Cohen's kappa"], "rows": rows})
    return out


def _groups(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return list(summary["groups"].items())


def _number(value: int | float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _text(row: Mapping[str, Any] | None) -> str:
    """ "0.62 (0.52 to 0.71)"."""
    if row is None or row["share"] is None:
        return "-"
    return f"{row['share']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _strength(row: Mapping[str, Any]) -> str:
    if row["strength"] is None:
        return "-"
    mark = " *" if row["regularised"] else ""
    return f"{row['strength']:+.2f} ({row['strength_low']:+.2f} to {row['strength_high']:+.2f}){mark}"


def notes(comparison: Comparison, summary: Mapping[str, Any]) -> list[str]:
    """What has to be said beside the tables."""
    shown = "; ".join(f"{name}: {_setting(told)}" for name, told in comparison.systems.items())
    out = [f"{len(comparison.pairs)} pairs, seed {comparison.seed}. {shown}.", TIES]
    if any(row["regularised"] for _, group in _groups(summary) for row in group["systems"]):
        out.append("* Some system won or lost everything: half a win each way was added between every two.")
    for name, group in _groups(summary):
        if group.get("outdated"):
            out.append(f"{name}: {group['outdated']} pairs are left out, judged at least in part by an earlier rubric.")
    return out


def _setting(told: Mapping[str, Any]) -> str:
    w = "" if told["guidance"] is None else f", {told['steps']} steps of {told['sampler']}, w = {told['guidance']:g}"
    seconds = "" if told["seconds"] is None else f", {told['seconds']:.3g} s to a picture"
    return f"{told['source']}{w}{seconds}"


def show(summary: Mapping[str, Any], told: Sequence[str]) -> None:
    """The tables and notes, printed."""
    # Names may have [ and : in them.
    console = Console(width=None if Console().is_terminal else 140, markup=False, emoji=False)
    for shown in tables(summary):
        table = Table(title=shown["title"], title_justify="left")
        for number, column in enumerate(shown["columns"]):
            table.add_column(column, justify="right" if number else "left")
        for row in shown["rows"]:
            table.add_row(*map(str, row))
        console.print(table)
    for note in told:
        console.print(note, highlight=False)


def leave(comparison: Comparison, summary: Mapping[str, Any]) -> list[Path]:
    """Writes a section into every system that is a run and still there, for its report page; returns their paths."""
    name, out = f"compare_{comparison.dir.resolve().name}", []
    for told in comparison.systems.values():
        if told["run"] and (Path(told["source"]) / "manifest.json").is_file():
            title = f"Judged side by side: {', '.join(comparison.systems)}"
            shown = {"notes": notes(comparison, summary), "tables": tables(summary)}
            out.append(sections.write(told["source"], name, title, **shown))
    return list(dict.fromkeys(out))


def absent(comparison: Comparison) -> list[str]:
    """The runs into which `leave` can write nothing, because from here they are not there."""
    sources = [told["source"] for told in comparison.systems.values() if told["run"]]
    return [source for source in dict.fromkeys(sources) if not (Path(source) / "manifest.json").is_file()]
