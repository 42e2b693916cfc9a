"""Plan a training on devices that are not there: does it fit, what is sent, how long does it take.

    python -m guided_distill plan --config=configs/imagenet64_stage2.py --topology=v5e:16x16
    python -m guided_distill plan --config=configs/digits_stage1.py --devices=8 --config.compute.remat=full

The step that training runs is compiled, for a TPU slice (--topology, with the package libtpu) or for virtual CPU
devices (--devices). Neither data nor a trained teacher nor an accelerator is needed. Where it does not fit, other
settings of fsdp, remat and accumulate are tried until one does; any key of the config is a flag, as in main.py.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

from guided_distill import collectives, hardware, launch, plans, runs, stages, topologies
from guided_distill.errors import UserError

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `plan`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True, help="configs/<data>_<stage>.py[:arguments]")
    on = parser.add_mutually_exclusive_group(required=True)
    on.add_argument("--topology", help=f"a TPU slice: {topologies.EXAMPLES}, ...")
    on.add_argument("--devices", type=int, help="so many virtual CPU devices")
    parser.add_argument("--memory", type=float, help="GiB of a device (default: what the compiler knows)")
    parser.add_argument("--once", action="store_true", help="compile the config as it is, and try nothing else")
    parser.add_argument(
        "--thorough", action="store_true", help="compile as training does, which takes four times as long"
    )
    parser.add_argument("--json", action="store_true", help="print one flat JSON object")
    parser.set_defaults(keys=[])  # Flags such as --config.compute.remat=full.


def main(args: argparse.Namespace) -> None:
    """Prints the plan."""
    config = read_config([f"--config={args.config}", *args.keys])
    devices, chips = topologies.of_tpu(args.topology) if args.topology else topologies.of_cpu(args.devices)
    limit = int(args.memory * GIB) if args.memory else None
    console, tried = Console(stderr=args.json, width=None if Console().is_terminal else 120), []
    for program in plans.search(config, devices, limit, args.once, args.thorough):
        tried.append(program)
        console.print(outcome(program), highlight=False)
    program = tried[-1] if tried[-1].fits else min(tried, key=lambda program: program.needed)
    stage = plans.build(plans.changed(config, program.setting))
    described = {"on": args.topology or f"{args.devices} CPU devices", "devices": len(devices), "chips": chips}
    described |= {f"mesh_{axis}": size for axis, size in stage.layout(devices).mesh.shape.items()}
    described |= describe(program, stage, len(devices), chips)
    described["tried"] = "; ".join(map(outcome, tried))
    if args.json:
        print(json.dumps(described))
    else:
        show(console, described, program, stage.rounds.total)
    if not program.fits:
        way_out = "try others without --once" if args.once else "take more or larger devices, or a smaller batch"
        raise UserError(f"nothing that was tried fits on {described['on']}: {way_out}")


def read_config(argv: Sequence[str]) -> dict[str, Any]:
    """The config of flags such as `main.py` takes. Raises `UserError` for what it would refuse."""
    launch.check_keys(argv)
    values = flags.FlagValues()
    options = {"flag_values": values, "lock_config": True, "sys_argv": list(argv)}
    config = config_flags.DEFINE_config_file("config", None, "", **options)
    try:
        values(["plan", *argv])
    except (flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(str(error)) from error
    return config.value.to_dict()


def outcome(program: plans.Program) -> str:
    """One line: the setting, and whether it fits."""
    if program.temporaries is None:
        why = "does not fit: the state alone needs"
    else:
        why = "fits: it needs" if program.fits else "does not fit: it needs"
    of = f" of {size(program.limit)}" if program.limit else ""
    return f"{setting_of(program)}: {why} {size(program.needed)}{of} ({program.seconds:.0f} s to compile)"


def size(number: int) -> str:
    """ "4.53 GiB"."""
    power = min(max(number.bit_length() - 1, 0) // 10, 3)
    return f"{number / 2 ** (10 * power):.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def setting_of(program: plans.Program) -> str:
    """As flags."""
    return " ".join(f"--config.{key}={value}" for key, value in program.setting.items()) or "as it is"


def describe(program: plans.Program, stage: stages.Stage, devices: int, chips: int) -> dict[str, Any]:
    """All numbers of a plan, flat: *_gib of a device, *_mb that a device takes part with in an update."""
    network = runs.parameterised(stage.manifest).network
    out = {name: stage.config[name] for name in ("name", "arguments", "batch_size")}
    out |= {"setting": setting_of(program), "fits": program.fits, "compile_seconds": round(program.seconds, 1)}
    out |= {name: getattr(network, name, None) for name in ("dtype", "remat")}
    out |= {"accumulate": stage.loop.accumulate, "updates": stage.rounds.total}
    out |= {f"{kind}_gib": number / GIB for kind, number in program.state.items()}
    out["temporaries_gib"] = None if program.temporaries is None else program.temporaries / GIB
    out |= {"needed_gib": program.needed / GIB, "limit_gib": program.limit and program.limit / GIB}
    out |= {"gflops": program.flops / 1e9, "gflops_per_chip": program.flops / 1e9 / chips}
    out |= {f"{kind.replace('-', '_')}_mb": program.sent.get(kind, 0) / 1e6 for kind in collectives.KINDS}
    out |= {"collectives_mb": sum(program.sent.values()) / 1e6, "utilisation": hardware.UTILISATION}
    for estimate in plans.estimates(program, devices, chips):
        name = estimate.name.lower().replace(" ", "_")
        out |= {f"{name}_step_seconds": estimate.step, f"{name}_hours": estimate.step * stage.rounds.total / 3600}
    return out


def show(console: Console, described: dict[str, Any], program: plans.Program, updates: int) -> None:
    """Three tables: memory, work, time."""
    devices, chips = described["devices"], described["chips"]
    name = described["name"] + (f":{described['arguments']}" if described["arguments"] else "")
    fits = "fits" if program.fits else "DOES NOT FIT"
    memory = Table("kind", "a device", title=f"{name} on {described['on']}: {fits}", title_justify="left")
    for kind, number in program.state.items():
        memory.add_row(kind, size(number))
    if program.temporaries is not None:
        memory.add_row("temporaries (activations)", size(program.temporaries))
    memory.add_row("needed", size(program.needed))
    memory.add_row("limit", size(program.limit) if program.limit else "not known")
    console.print(memory)
    work = Table("of an update", "", title_justify="left")
    work.add_row("batch", f"{described['batch_size']:,} in {described['accumulate']} part(s)")
    work.add_row("TFLOPs", f"{program.flops / 1e12:,.4g}, {program.flops / 1e12 / chips:,.4g} a chip")
    for kind, sent in program.sent.items():
        work.add_row(f"{kind}, MB a device", f"{sent / 1e6:,.4g}")
    console.print(work)
    title = f"{updates:,} updates on {chips} chips of each kind, if the step fits there, estimated"
    columns = ("", "compute ms", "memory ms", "links ms", "update ms", "hours", "chip hours")
    hours = Table(*columns, title=title, title_justify="left")
    for estimate in plans.estimates(program, devices, chips):
        total = estimate.step * updates / 3600
        times = (estimate.compute, estimate.memory, estimate.links, estimate.step)
        hours.add_row(estimate.name, *(f"{1e3 * t:,.3g}" for t in times), f"{total:,.3g}", f"{total * chips:,.4g}")
    console.print(hours)
    console.print(
        f"Assumed: {hardware.UTILISATION:.0%} of the 16-bit peak; state and temporaries read and written once; rings "
        "over all links; the three overlap. An update takes the longest. Input, logging and sampling are not counted."
    )
