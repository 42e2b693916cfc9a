"""`python -m guided_distill VERB ...`: each verb is a file of `guided_distill.cli`."""

import argparse
import sys

from guided_distill import launch
from guided_distill.plugins import names, resolve


def main(argv: list[str] | None = None) -> int:
    """Runs the verb; returns the exit status: 0, or 2 after a mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m guided_distill", description="Use trained runs.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in names("cli"):
        module = resolve("cli", name)
        verb = verbs.add_parser(name, help=module.__doc__.splitlines()[0], description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(handler=module.main)
    args, more = parser.parse_known_args(argv)
    if more and not ("keys" in args and all(flag.startswith("--config.") for flag in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.keys = more
    launch.prepare_process()
    return launch.guarded(args.handler, args)


if __name__ == "__main__":
    sys.exit(main())
