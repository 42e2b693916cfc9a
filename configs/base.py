"""What all configs share: a teacher's, a student's and a chain's defaults, and the arguments after the colon.

A config is a delta on these, with the header of a lab book: what it is, the command, hardware and time, the numbers to
expect. "Estimated" hours are counted FLOPs at 35 % of the bfloat16 peak (`python -m experiments.NAME --dry-run`). Every
key is read by `guided_distill.stages` or the trainer; one that nobody reads is an error.

- `seed`, `batch_size`; `num_updates` of each round (a teacher and stage one are one round, stage two one a halving)
- `save_every`, `log_every`, `sample_every` (0: at the end of rounds only), in updates; `eval_num` samples (0: off)
- `golden`: a frozen set that a student answers after every round (docs/golden.md); "auto": its first teacher's, made
  where there is none; "": off
- `data`, `codec`, `schedule`, `network`: {name, its arguments}; "inherit": as the teacher has it; the codec "as_data":
  the one that the data were encoded by (`data encode`)
- `prediction`: x, eps, v or both; `time_input`: u, index or logsnr
- `objective`: {name, its arguments, weighting: {name, max_logsnr}}
- `optim`: {name: adam | adamw, lr, warmup (updates), decay: constant | linear | cosine, within each round, clip, ...}
- `ema`: decay of the moving average; 0 is off
- `compute`: {dtype: float32 | bfloat16, remat: none | dots | full ("": as the network has them; parameters are float32
  always), accumulate: parts that a batch is computed in, updates_per_call of the device}
- `channels`: what a network is shown beside z, ("mask", "image") or ("image",) (docs/editing.md); `image_dropout`:
  share of the examples that are not shown their image; `objective.image_range`: of guidance by the image
- `start`, `start_command`: a run whose weights a teacher begins with
- `mesh`: {data, fsdp, tensor} devices along each, -1 is what is left
- `sharding`: (pattern, rule) pairs, of which a leaf of the state takes the first that is found in its path; rules:
  fsdp | replicate | columns | rows (docs/scale.md)
- `checkpoints`: {keep: the newest, beside every round's last, best: a score to keep the best by, "": none}
- `max_skipped`: updates in a row that may be left out for not being finite; `wandb`: project to track in, "": none
- `sampling`: what is recommended to users, {sampler, steps, guidance}; guidance is w, 0 is off
- `halving`: {start_steps (the first teacher's), end_steps, factor (of steps a round: 4 is quartering),
  last_updates_factor (for N <= last_from)}
- `teacher`: its run directory; `teacher_unconditional`: a second one to guide it by ("": none)
"""

import types
from pathlib import Path

from ml_collections import ConfigDict

from guided_distill.errors import UserError

STAGE1 = {"tiny": False, "w": -1.0}
STAGE2 = {**STAGE1, "stochastic": False, "unguided": False, "encoding": False}


def parse(text: str | None, **defaults) -> types.SimpleNamespace:
    """ "tiny,w=1" -> values by name, `defaults` for those not given. False makes a switch. Raises `UserError` for
    others, naming the valid ones."""
    values = dict(defaults)
    for part in filter(None, (text or "").split(",")):
        name, given, value = part.partition("=")
        default = defaults.get(name)
        if name not in defaults or (default is False) == bool(given):
            valid = ", ".join(key if kind is False else f"{key}=..." for key, kind in defaults.items())
            raise UserError(f"unknown config argument {part!r}; valid: {valid or 'none'}")
        try:
            values[name] = True if default is False else type(default)(value) if default is not None else float(value)
        except ValueError:
            raise UserError(f"config argument {part!r}: {value!r} is not a number") from None
        if name == "w" and not values[name] >= 0:  # -1, all of them, is what is not given.
            raise UserError(f"config argument {part!r}: a guidance strength is 0 or more")
    return types.SimpleNamespace(**values)


def exclusive(text: str, *names: str) -> None:
    """Raises `UserError` when more than one of these arguments is given."""
    given = [part for part in (text or "").split(",") if part.partition("=")[0] in names]
    if len(given) > 1:
        raise UserError(f"config arguments {' and '.join(given)} exclude each other")


def spell(defaults: dict, values: dict) -> str:
    """The arguments that differ from their defaults, in one spelling: they name the run's directory."""
    parts = []
    for name in defaults:
        value = values.get(name, defaults[name])
        if value != defaults[name]:
            parts.append(
                name if value is True else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            )
    return ",".join(parts)


def run_dir(name: str, arguments: str) -> str:
    """runs/<config>[-<arguments>]."""
    return str(Path("runs") / (f"{name}-{arguments}" if arguments else name))


def common(name: str, arguments: str) -> ConfigDict:
    """What every stage has."""
    return ConfigDict(
        {
            "name": name,
            "arguments": arguments,
            "seed": 0,
            "batch_size": 128,
            "num_updates": 1000,
            "save_every": 1000,
            "log_every": 100,
            "sample_every": 0,
            "eval_num": 0,
            "golden": "",
            "optim": {"name": "adam", "lr": 1e-3, "warmup": 0, "decay": "constant", "clip": 1.0, "weight_decay": 0.0},
            "ema": 0.0,
            "compute": {"dtype": "", "remat": "", "accumulate": 1, "updates_per_call": 1},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "sharding": (("", "fsdp"),),
            "checkpoints": {"keep": 2, "best": ""},
            "max_skipped": 10,
            "wandb": "",
            "sampling": {"sampler": "ddim", "steps": 64, "guidance": 1.0},
        }
    )


def teacher(name: str, arguments: str = "") -> ConfigDict:
    """A classifier-free-guided teacher, trained by denoising."""
    config = common(name, arguments)
    config.codec = ConfigDict({"name": "pixel"})
    config.schedule = ConfigDict({"name": "Cosine", "logsnr_min": -20.0, "logsnr_max": 20.0})
    config.prediction, config.time_input = "v", "u"
    config.objective = ConfigDict(
        {"name": "denoising", "weighting": {"name": "snr_plus_one"}, "dropout": 0.1, "guidance_interval": ()}
    )
    return config


def student(name: str, arguments: str, teacher_name: str, teacher_arguments: str) -> ConfigDict:
    """What both kinds of student share: everything that is not said is as the teacher has it."""
    config = common(name, arguments)
    config.teacher = run_dir(teacher_name, teacher_arguments)
    config.teacher_unconditional = ""
    colon = f":{teacher_arguments}" if teacher_arguments else ""
    config.teacher_command = f"python main.py --config=configs/{teacher_name}.py{colon}"
    for part in ("data", "codec", "schedule", "network"):
        config[part] = ConfigDict({"name": "inherit"})
    config.prediction = config.time_input = "inherit"
    return config


def matching(
    config: ConfigDict, w_min: float, w_max: float, w_min_share: float = 0.0, w_power: float = 0.0
) -> ConfigDict:
    """Stage one: the objective, its range of w."""
    config.objective = ConfigDict(
        {
            "name": "matching",
            "weighting": {"name": "truncated_snr", "max_logsnr": 20.0},
            "w_min": w_min,
            "w_max": w_max,
            "w_min_share": w_min_share,
            "w_power": w_power,
            "grid": 0,
        }
    )
    config.sampling.guidance = min(max(1.0, w_min), w_max)
    return config


def progressive(
    config: ConfigDict,
    w_min: float,
    w_max: float,
    w_min_share: float = 0.0,
    w_power: float = 0.0,
    last_share: float = 0.0,
    stochastic: bool = False,
) -> ConfigDict:
    """Stage two: the objective, its rounds, and the anneal of each (PD: linear to 0)."""
    matching(config, w_min, w_max, w_min_share, w_power)
    del config.objective.grid
    config.objective.name, config.objective.stochastic = "progressive", stochastic
    config.objective.dropout, config.objective.last_share = 0.0, last_share
    config.optim.decay = "linear"
    config.halving = ConfigDict({"start_steps": 64, "end_steps": 1, "factor": 2})
    config.halving.last_updates_factor, config.halving.last_from = 1.0, 2
    del config.sampling.sampler
    config.sampling.steps = 4
    return config


def encoding(config: ConfigDict) -> ConfigDict:
    """Encoder distillation, at w = 0, from a config of stage two."""
    config.objective.name = "encoding"
    for key in ("stochastic", "dropout", "w_power", "last_share"):
        del config.objective[key]
    config.objective.w_min = config.objective.w_max = config.objective.w_min_share = 0.0
    config.objective.weighting.max_logsnr = (
        20.0  # Its first step starts there, at t = 0: a lower cap would switch it off.
    )
    config.sampling.guidance = 0.0
    return config


def stage_one(
    name: str, arg: str, above: types.ModuleType, defaults: dict, w_min_share: float = 0.0, w_power: float = 0.0
):
    """(config, parsed arguments) of a w-conditioned student of the teacher config `above`, for w in [0, 4], or with the
    argument w=1 of a single-w student. `w_min_share`: of the draws that are at w = 0, the edge of the range; `w_power`:
    how much less a large w counts."""
    a = parse(arg, **defaults)
    config = student(name, spell(defaults, vars(a)), name_of(above), spell(above.DEFAULTS, vars(a)))
    matching(config, *((a.w, a.w) if a.w >= 0 else (0.0, 4.0, w_min_share, w_power)))
    return config, a


def stage_two(
    name: str,
    arg: str,
    first: types.ModuleType,
    teacher_module: types.ModuleType,
    defaults: dict,
    w_share: float = 0.0,
    w_power: float = 0.0,
    last_share: float = 0.0,
):
    """(config, parsed arguments) of the halved student of the stage one config `first`, or with the argument unguided
    of the teacher's. `w_share`: of the draws that are at w = 0; `last_share`: of those that are at the last step."""
    a = parse(arg, **defaults)
    exclusive(arg, "w", "unguided", "encoding")
    exclusive(arg, "stochastic", "encoding")
    above = teacher_module if a.unguided else first
    config = student(name, spell(defaults, vars(a)), name_of(above), spell(above.DEFAULTS, vars(a)))
    w_range = (0.0, 0.0) if a.unguided else (a.w, a.w) if a.w >= 0 else (0.0, 4.0, w_share, w_power)
    progressive(config, *w_range, last_share=last_share, stochastic=a.stochastic)
    if a.encoding:
        encoding(config)
    return config, a


def name_of(module: types.ModuleType) -> str:
    """A config module's own name, which its runs bear."""
    return module.__name__.rpartition(".")[2]


def tiny(config: ConfigDict, num_updates: int) -> ConfigDict:
    """Seconds instead of hours, for any stage: shows that it runs."""
    config.batch_size, config.num_updates, config.save_every = 16, num_updates, num_updates // 2
    config.log_every, config.optim.warmup = min(4, num_updates // 2), 0
    config.ema = min(config.ema, 0.9)
    if "halving" in config:
        config.halving.start_steps = 8
    else:
        config.sampling.steps = 8
    return config


def tiny_unet(config: ConfigDict) -> ConfigDict:
    """A teacher's U-Net with as little in it as possible."""
    config.network = ConfigDict({"name": "unet", "channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1})
    config.network.attention_resolutions = ()
    return config


def stand_in(config: ConfigDict, shape: tuple[int, int, int]) -> ConfigDict:
    """`tiny` needs no data: pictures that are made here take its place."""
    config.data = ConfigDict({"name": "synthetic", "shape": shape, "num_classes": 10})
    return tiny_unet(config)


def stand_in_codes(config: ConfigDict, shape: tuple[int, int, int], text: tuple[int, int] = ()) -> ConfigDict:
    """Codes of a codec that are made here, with classes or the states of captions: neither data nor codec is needed."""
    config.data = ConfigDict({"name": "synthetic", "shape": shape, "num_classes": 10, "text": text})
    config.codec = ConfigDict({"name": "identity"})
    return config


def tiny_latent_unet(config: ConfigDict) -> ConfigDict:
    """A latent teacher's U-Net with as little in it as possible."""
    config.network = ConfigDict({"name": "latent_unet", "channels": 8, "channel_multipliers": (1, 2), "groups": 4})
    config.network.attention_downsampling, config.network.num_res_blocks, config.network.num_heads = (2,), 1, 2
    return config


def chain(name: str, arguments: str, stages: dict[str, ConfigDict]) -> ConfigDict:
    """Stages to be trained in order. `num_updates` and `save_every` override those of every stage when they are set
    (not 0)."""
    return ConfigDict(
        {
            "name": name,
            "arguments": arguments,
            "num_updates": 0,
            "save_every": 0,
            "order": tuple(stages),
            "stages": stages,
        }
    )


def chain_of(name: str, arg: str, modules: dict[str, types.ModuleType]) -> ConfigDict:
    """The chain of config modules, each given those of the last one's arguments that it knows. `unguided` leaves stage
    one out where stage two then starts from the teacher."""
    defaults = list(modules.values())[-1].DEFAULTS
    given = vars(parse(arg, **defaults))
    if given["unguided"] and "unguided" not in modules["stage1"].DEFAULTS:
        modules = {stage: module for stage, module in modules.items() if stage != "stage1"}
    stages = {stage: module.get_config(spell(module.DEFAULTS, given)) for stage, module in modules.items()}
    return chain(name, spell(defaults, given), stages)
