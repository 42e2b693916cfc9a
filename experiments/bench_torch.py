"""The same network beside PyTorch: diffusers' `UNet2DModel` configured to match ours, and the operations inside.

Imported by `experiments.bench` alone, and only where PyTorch and diffusers are installed.
"""

import importlib.util
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.timing import SCHEDULE, Case, compared, interleave, parameters, stateful
from guided_distill import flops, rounds, samplers, schedules, state, train_step, weighting
from guided_distill.layers.blocks import num_groups
from guided_distill.objectives import denoising

if not importlib.util.find_spec("torchvision"):  # diffusers fails to import without the names of its operators.
    torch.library.define("torchvision::nms", "(Tensor x) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor x) -> Tensor")

DEVICE = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
torch.set_num_threads(os.cpu_count() or 1)  # As many as XLA takes.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
NHWC = ("NHWC", "HWIO", "NHWC")


def finished(value: Any) -> Any:
    """`value`, once the device has it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return value


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32)).to(DEVICE)


def unet(case: Case) -> torch.nn.Module:
    """diffusers' network with our widths, blocks, attention, BigGAN resampling and modulation."""
    from diffusers import UNet2DModel

    net = case.network
    widths = [net["channels"] * multiplier for multiplier in net["channel_multipliers"]]
    attends = [case.shape[0] >> level in net["attention_resolutions"] for level in range(len(widths))]
    heads = {width // net.get("num_heads", 1) for width, attend in zip(widths, attends, strict=True) if attend}
    (head_dim,) = heads | {widths[-1] // net.get("num_heads", 1)}
    return UNet2DModel(
        sample_size=case.shape[0],
        in_channels=case.shape[-1],
        out_channels=case.shape[-1],
        block_out_channels=widths,
        layers_per_block=net["num_res_blocks"],
        down_block_types=["AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends],
        up_block_types=["AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=head_dim,
        norm_num_groups=num_groups(widths[0]),
    ).to(DEVICE)


def variants(case: Case) -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    """(name, network, z): eager, eager with channels last, and compiled where there is a compiler."""
    z = tensor(case.batch, case.shape[-1], *case.shape[:2])
    last = z.to(memory_format=torch.channels_last)
    yield "PyTorch, eager", unet(case), z
    yield "PyTorch, eager, channels last", unet(case).to(memory_format=torch.channels_last), last
    yield "PyTorch, compiled, channels last", torch.compile(unet(case).to(memory_format=torch.channels_last)), last


def torch_sampler(case: Case, network: torch.nn.Module, z: torch.Tensor) -> Callable[[], Any]:
    """DDIM from v, without gradients."""
    logsnrs = torch.tensor(np.asarray(schedules.grid(SCHEDULE, case.steps)))
    alphas, sigmas = torch.sigmoid(logsnrs).sqrt().tolist(), torch.sigmoid(-logsnrs).sqrt().tolist()
    times = [torch.full((case.batch,), 1000.0 * np.arctan2(s, a) / (np.pi / 2)) for a, s in zip(alphas, sigmas)]
    times = [t.to(DEVICE) for t in times]

    @torch.no_grad()
    def run():
        x = z
        for i in range(case.steps):
            v = network(x, times[i], return_dict=False)[0]
            clean, noise = alphas[i] * x - sigmas[i] * v, sigmas[i] * x + alphas[i] * v
            x = alphas[i + 1] * clean + sigmas[i + 1] * noise
        return finished(x)

    return run


def torch_update(case: Case, network: torch.nn.Module, z: torch.Tensor) -> Callable[[], Any]:
    """v-loss, backward, clip, fused Adam."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-6, fused=True)
    time, target = torch.rand(case.batch, device=DEVICE) * 1000, torch.zeros_like(z)

    def run():
        optimiser.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(network(z, time, return_dict=False)[0], target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        return finished(loss.item())

    return run


def our_programs(case: Case) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """({"sampling", "training"}, {parameters, GFLOPs a forward}); training is the trainer's update of a teacher, noise
    and times drawn and the gradient's norm reported."""
    network = case.denoiser(guided=False)
    z, _ = case.inputs()
    params, grid = case.parameters(network), schedules.grid(SCHEDULE, case.steps)
    sample = jax.jit(
        lambda params, z: samplers.sample(jax.random.key(0), network.bind(params), samplers.ddim, z, {}, grid)
    )
    optimiser = train_step.optimiser()
    step = train_step.make(
        train_step.Ingredients(
            objective=denoising.make(SCHEDULE, weighting.snr_plus_one, null={}),
            student=network.bind,
            teacher=None,
            encode=lambda x: x,
            optimiser=optimiser,
            learning_rate=lambda step: jnp.float32(1e-6),
            rounds=rounds.Rounds((0,), (1000,)),
            seed=0,
        )
    )
    begin = jax.jit(lambda params: state.create({"student": params}, {}, optimiser, False))(params)
    update = stateful(jax.jit(step, donate_argnums=0), begin, {"x": z})
    facts = {
        "parameters": parameters(params),
        "gflops": flops.count(network.bind(params), z, jnp.zeros((case.batch,)), {}) / 1e9,
    }
    return {"sampling": lambda: sample(params, z), "training": update}, facts


def peers(case: Case) -> list[dict[str, Any]]:
    """Sampling and training of both, images a second, and how many of our seconds one of theirs is."""
    ours, facts = our_programs(case)
    rows = [{"what": "network", "who": "ours", **facts}]
    makers = {"sampling": torch_sampler, "training": torch_update}
    programs: dict[str, dict[str, Callable[[], Any]]] = {kind: {"ours": program} for kind, program in ours.items()}
    for name, network, z in variants(case):
        if len(rows) == 1:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(z, 0)
            count = sum(p.numel() for p in network.parameters())
            rows.append(
                {"what": "network", "who": name, "parameters": count, "gflops": counter.get_total_flops() / 1e9}
            )
        for kind, maker in makers.items():
            try:
                program = maker(case, network, z)
                program()
                programs[kind][name] = program
            except Exception as error:  # The compiler's, whatever it is: the others are still worth their row.
                rows.append({"what": kind, "who": name, "failed": type(error).__name__})
    for kind, contenders in programs.items():
        seconds = interleave(contenders, case.repeats)
        evaluations = case.batch * (case.steps if kind == "sampling" else 1)
        for who, values in seconds.items():
            rate = evaluations / statistics.median(values)
            against = {} if who == "ours" else compared(values, seconds["ours"])
            rows.append({"what": kind, "who": who, "images_per_second": rate, **against})
    return rows


def probes(tiny: bool) -> list[dict[str, Any]]:
    """Single operations: XLA beside the faster of PyTorch's two layouts."""
    rows = []
    for name, ours, theirs in operations(2 if tiny else 8):
        seconds = interleave({"xla": ours, **theirs}, 2 if tiny else 21)
        best = min(theirs, key=lambda layout: statistics.median(seconds[layout]))
        timed = compared(seconds["xla"], seconds[best])
        rows.append({"what": name, "layout": best, **timed})
    return rows


def operations(batch: int) -> Iterator[tuple[str, Callable, dict[str, Callable]]]:
    """(name, XLA's program, {layout: PyTorch's program}) of what a U-Net is made of."""
    conv = torch.nn.functional.conv2d
    for size, width in ((32, 64), (16, 128), (8, 256)):
        z, k = tensor(batch, width, size, size), tensor(width, width, 3, 3, seed=1) / 30
        jz, jk = (jnp.asarray(a.cpu().numpy()) for a in (z.permute(0, 2, 3, 1), k.permute(2, 3, 1, 0)))
        layouts = {
            "channels first": (z, k),
            "channels last": tuple(a.contiguous(memory_format=torch.channels_last) for a in (z, k)),
        }
        shape = f"{size}x{size}x{width}"
        programs: dict[str, tuple[Callable, Callable]] = {
            f"3x3 convolution, {shape}": (our_conv, lambda z, k: conv(z, k, padding=1)),
            f"its gradient by the input, {shape}": (
                lambda z, k: jax.vjp(lambda x: our_conv(x, k), z)[1](z)[0],
                lambda z, k: torch.nn.grad.conv2d_input(z.shape, k, z, padding=1),
            ),
            f"its gradient by the kernel, {shape}": (
                lambda z, k: jax.vjp(lambda k: our_conv(z, k), k)[1](z)[0],
                lambda z, k: torch.nn.grad.conv2d_weight(z, k.shape, z, padding=1),
            ),
            f"group norm and swish, {shape}": (
                our_norm,
                lambda z, k: torch.nn.functional.silu(torch.nn.functional.group_norm(z, 16)),
            ),
        }
        if size <= 16:
            programs[f"attention, one head, {shape}"] = (our_attention, their_attention)
        for name, (ours, theirs) in programs.items():
            jitted = jax.jit(ours)
            run = lambda a, theirs=theirs: finished(theirs(*a))  # noqa: E731
            yield (
                name,
                lambda jitted=jitted, jz=jz, jk=jk: jitted(jz, jk),
                {layout: lambda a=a, run=run: run(a) for layout, a in layouts.items()},
            )


def our_conv(z: jax.Array, k: jax.Array) -> jax.Array:
    """3 x 3, same size."""
    return jax.lax.conv_general_dilated(z, k, (1, 1), "SAME", dimension_numbers=NHWC)


def our_norm(z: jax.Array, k: jax.Array) -> jax.Array:
    """As Flax does it: mean and mean of squares."""
    b, h, w, c = z.shape
    grouped = z.reshape(b, h, w, 16, c // 16)
    mean = jnp.mean(grouped, axis=(1, 2, 4), keepdims=True)
    square = jnp.mean(jnp.square(grouped), axis=(1, 2, 4), keepdims=True)
    return jax.nn.silu(((grouped - mean) * jax.lax.rsqrt(square - mean**2 + 1e-6)).reshape(z.shape))


def our_attention(z: jax.Array, k: jax.Array) -> jax.Array:
    """q = k = v."""
    tokens = z.reshape(z.shape[0], -1, 1, z.shape[-1])
    return jax.nn.dot_product_attention(tokens, tokens, tokens)


def their_attention(z: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """q = k = v."""
    tokens = z.flatten(2).transpose(1, 2)[:, None]
    return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
