"""FLOPs from jaxprs: closed forms, loops and derivatives, and XLA's own count where that is right."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from guided_distill import flops, samplers, schedules
from guided_distill.denoiser import Parameterised
from guided_distill.errors import UserError
from guided_distill.models.unet import UNet

NHWC = ("NHWC", "HWIO", "NHWC")


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_product_is_two_a_multiply_add():
    m, n, k, batch = 3, 5, 7, 2
    assert flops.count(jnp.matmul, of(m, k), of(k, n)) == 2 * m * n * k
    assert flops.count(jnp.matmul, of(batch, m, k), of(batch, k, n)) == batch * 2 * m * n * k
    assert flops.count(lambda a, b: jnp.einsum("bijk,bjl->bikl", a, b), of(2, 3, 4, 5), of(2, 4, 6)) == 2 * 720


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_gradients(groups):
    b, size, c, out, taps = 2, 8, 4, 6, 9

    def conv(z, kernel):
        return jax.lax.conv_general_dilated(
            z, kernel, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups
        )

    arguments = of(b, size, size, c), of(3, 3, c // groups, out)
    forward = 2 * b * size**2 * out * taps * c // groups
    assert flops.count(conv, *arguments) == forward
    for argument in (0, 1):

        def backward(z, kernel, argument=argument):
            y, pull = jax.vjp(lambda x: conv(*(x, kernel) if argument == 0 else (z, x)), (z, kernel)[argument])
            return pull(y)

        assert flops.count(backward, *arguments) == 2 * forward


def test_zeros_put_in_by_dilation_do_not_count():
    def transposed(z, kernel):
        return jax.lax.conv_transpose(z, kernel, (2, 2), "SAME", dimension_numbers=NHWC)

    z, kernel = of(1, 8, 8, 4), of(2, 2, 4, 6)
    assert flops.count(transposed, z, kernel) == 2 * 16 * 16 * 6 * 4  # each output meets one tap of four


def test_a_scan_of_n_is_n_times_its_body():
    def body(carry, x):
        return jnp.tanh(carry @ carry) + x, jnp.sum(carry)

    once = flops.count(body, of(4, 4), of())
    assert once == 2 * 4**3 + 16 + 16 + 16
    for length in (1, 7, 64):
        assert flops.count(lambda c, xs: jax.lax.scan(body, c, xs), of(4, 4), of(length)) == length * once
    nested = lambda c, xs: jax.lax.scan(lambda c, x: (jax.lax.scan(body, c, xs)[0], None), c, xs)[0]  # noqa: E731
    assert flops.count(nested, of(4, 4), of(5)) == 25 * once


def test_a_gradient_of_linear_layers_is_three_forwards_less_the_first_input_gradient():
    b, widths = 5, (8, 16, 4, 32)
    kernels = [of(m, n) for m, n in itertools.pairwise(widths)]

    def chain(kernels, x):
        for kernel in kernels:
            x = x @ kernel
        return x

    x = of(b, widths[0])
    forward = flops.count(chain, kernels, x)
    pulled = lambda kernels, x, y: jax.vjp(lambda k: chain(k, x), kernels)[1](y)  # noqa: E731
    assert flops.count(pulled, kernels, x, of(b, widths[-1])) == 3 * forward - 2 * b * widths[0] * widths[1]


def test_wrappers_are_looked_into():
    plain = flops.count(lambda x: jnp.sin(x @ x), of(4, 4))
    f = lambda x: jnp.sin(x @ x)  # noqa: E731
    assert flops.count(jax.jit(jax.jit(f)), of(4, 4)) == plain
    assert flops.count(jax.checkpoint(f), of(4, 4)) == plain
    custom = jax.custom_vjp(f)
    custom.defvjp(lambda x: (f(x), x), lambda x, g: (g,))
    assert flops.count(custom, of(4, 4)) == plain
    # Recomputed in the backward pass: a forward more, less what nothing needs.
    loss = lambda g: jax.grad(lambda x: jnp.sum(g(x)))  # noqa: E731
    assert flops.count(loss(jax.checkpoint(f)), of(4, 4)) >= flops.count(loss(f), of(4, 4)) + 2 * 4**3


def test_a_branch_counts_as_the_dearest():
    def branch(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x, jnp.sin], x)

    assert flops.count(branch, of(dtype=jnp.int32), of(4, 4)) == 2 * 4**3


def test_moving_integers_and_randomness_are_free():
    def moves(x):
        return jnp.concatenate([x.reshape(2, 8).T, x.T.reshape(8, 2)])[::-1, :1].astype(jnp.bfloat16)

    assert flops.count(moves, of(4, 4)) == flops.count(jax.jit(moves), of(4, 4)) == 0
    assert flops.count(lambda x, i, y: x.at[i].add(y), of(9, 4), of(2, dtype=jnp.int32), of(2, 4)) == 8
    assert flops.count(lambda i: jnp.sum(i * i), of(9, dtype=jnp.int32)) == 0
    assert flops.count(lambda: jax.random.bits(jax.random.key(0), (100,))) == 0
    assert flops.count(lambda x: jnp.sum(x, axis=0), of(3, 4)) == 12
    assert flops.count(lambda x: jnp.exp(x) + 1, of(3, 4)) == 24


def test_loops_without_an_end_and_opaque_kernels_are_refused():
    def loop(x):
        return jax.lax.while_loop(lambda x: jnp.all(x < 9), lambda x: 2 * x, x)

    with pytest.raises(UserError, match="use lax"):
        flops.count(loop, of(3))
    assert flops.count(loop, of(3, dtype=jnp.int32)) == 0
    callback = lambda x: jax.pure_callback(lambda x: x, x, x)  # noqa: E731
    with pytest.raises(UserError, match="pure_callback"):
        flops.count(callback, of(3))


def test_xla_agrees_on_a_small_network():
    def network(kernels, z):
        for kernel in kernels:
            z = jax.nn.relu(jax.lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=NHWC))
        return jnp.mean(z, axis=(1, 2)) @ jnp.ones((z.shape[-1], 10))

    kernels, z = [of(3, 3, 3, 16), of(3, 3, 16, 16)], of(2, 32, 32, 3)
    for function in (network, jax.grad(lambda *a: jnp.sum(network(*a) ** 2))):
        analysis = jax.jit(function).lower(kernels, z).cost_analysis()
        assert flops.count(function, kernels, z) == pytest.approx(analysis["flops"], rel=0.06)


@pytest.mark.parametrize("name", samplers.names())
def test_n_steps_of_a_sampler_are_n_forwards(name):
    steps, b = 8, 2
    net = UNet(3, 8, (1, 2), 1, (4,), embed_guidance=True)
    network = Parameterised(net, "v", "u", schedules.Cosine())
    z, cond = of(b, 8, 8, 3), {"guidance": of(b)}
    params = jax.eval_shape(network.init, jax.random.key(0), z, cond)
    grid = schedules.grid(schedules.Cosine(), steps)

    def sample(params, z, cond):
        return samplers.sample(jax.random.key(0), network.bind(params), samplers.get(name), z, cond, grid)

    forward = flops.count(lambda params, z, logsnr, cond: network.bind(params)(z, logsnr, cond), params, z, of(b), cond)
    forwards = 2 * steps if name == "heun" else steps
    assert forwards <= flops.count(sample, params, z, cond) / forward <= 1.02 * forwards


def test_the_fused_attention_counts_as_what_it_computes(monkeypatch):
    """Traced only: there is no GPU for it. On the way back the scores are computed again."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda *_: 90000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda *_, **__: True)
    q, k = (jax.ShapeDtypeStruct((2, length, 3, 16), jnp.bfloat16) for length in (64, 32))
    attend = lambda *qkv: jnp.sum(jax.nn.dot_product_attention(*qkv, implementation="cudnn"))  # noqa: E731
    product = 2 * 2 * 3 * 64 * 32 * 16
    assert flops.count(attend, q, k, k) == pytest.approx(2 * product, rel=0.02)
    assert flops.count(jax.grad(attend, (0, 1, 2)), q, k, k) == pytest.approx(7 * product, rel=0.02)
