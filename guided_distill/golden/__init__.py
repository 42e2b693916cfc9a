"""The golden set: the same few hundred questions (label, w, noise) put to a teacher and to every network distilled from
it.

golden = verdict.open_set(lineage, path)          # frozen once, read ever after
bench = measure.Bench(golden, teacher, ...)       # draws, scores, compares
checks.judge(...)                                 # what is out of tolerance

`verdict.run` does all of it for a run directory, as `python -m guided_distill golden` does.
"""

from guided_distill.golden import checks, error_map, frozen, measure, verdict

__all__ = ["checks", "error_map", "frozen", "measure", "verdict"]
