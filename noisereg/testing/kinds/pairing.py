"""What a pairing must do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisereg.api import Context, Noise
from noisereg.diffusion.diffusion import Diffusion
from noisereg.testing.doubles import PROCESSES, SmallNetwork, draw_latents, smooth_data, times
from noisereg.testing.kinds.common import EXACT, try_bounds, unchanged, untouched_generators
from noisereg.testing.kit import Subject, check, expect


def batch_for(
    subject: Subject, size: int = 9, **changed: Any
) -> tuple[Any, Tensor, dict[str, Tensor], Tensor, Tensor]:
    """The pairing, x0, latents, ε and t of a batch of white noise."""
    shape = subject.shapes()[0]
    noise: Noise = subject.registry.build("noise", "white", {}, Context(shape=shape))
    process = subject.registry.build("process", "iadb", {}, Context(shape=shape, noise=noise))
    pairing = subject.build(changed, shape=shape, noise=noise, process=process)
    latents, t = draw_latents(noise, shape, size, seed=6), times(size, 0.1)
    return pairing, smooth_data(shape, size), latents, noise.color(latents, t), t


def check_permutation(order: Any, size: int) -> None:
    expect(isinstance(order, Tensor), f"it gives {type(order).__name__}; expected a tensor")
    expect(
        order.shape == (size,),
        f"it gives {tuple(order.shape)} for a batch of {size}; expected (B,)",
    )
    expect(order.dtype == torch.int64, f"it gives {order.dtype}; expected int64")
    missing = sorted(set(range(size)) - set(order.tolist()))
    expect(not missing, f"it is no permutation: latents {missing} are given to no image")


@check("pairing", EXACT)
def gives_a_permutation(subject: Subject) -> None:
    """p is (B,) int64 and every noise is used once: then the latents stay N(0, 1), whatever
    decides.
    """
    pairing, *batch = batch_for(subject)
    check_permutation(pairing(*batch), 9)


@check("pairing", EXACT)
def batch_of_one(subject: Subject) -> None:
    """A micro-batch of one sample is paired with itself."""
    pairing, *batch = batch_for(subject, 1)
    check_permutation(pairing(*batch), 1)


@check("pairing", EXACT)
def equal_images_and_equal_noises(subject: Subject) -> None:
    """Ties still give a permutation: data have duplicates."""
    pairing, x0, latents, eps, t = batch_for(subject)
    check_permutation(pairing(x0[:1].expand_as(x0).clone(), latents, eps, t), 9)
    same = {name: v[:1].expand_as(v).clone() for name, v in latents.items()}
    check_permutation(pairing(x0, same, eps[:1].expand_as(eps).clone(), t), 9)


@check("pairing", EXACT)
def depends_on_its_input_alone(subject: Subject) -> None:
    """Called twice it gives the same permutation, draws from no global generator and changes
    nothing in place.
    """
    pairing, x0, latents, eps, t = batch_for(subject)
    with unchanged("it", x0=x0, eps=eps, t=t, **latents), untouched_generators("it"):
        one, two = pairing(x0, latents, eps, t), pairing(x0, latents, eps, t)
    expect(torch.equal(one, two), "it gives two permutations for one batch")


@check("pairing", EXACT)
def says_whether_time_moves(subject: Subject) -> None:
    """Unless moves_time, the permutation does not depend on t: images keep their t, and z given t
    stays N(0, I).
    """
    pairing, x0, latents, eps, t = batch_for(subject)
    if not pairing.moves_time:
        one, two = pairing(x0, latents, eps, t), pairing(x0, latents, eps, t.flip(0))
        expect(
            torch.equal(one, two),
            "it depends on t: set moves_time = True, so that (z, t) move together",
        )


@check("pairing", "no number is compared: only finiteness")
def trains(subject: Subject) -> None:
    """A step of training with it, through both processes, gives a finite loss."""
    pairing, x0, latents, _, t = batch_for(subject)
    shape = tuple(x0.shape[1:])
    for name in PROCESSES:
        noise = subject.registry.build("noise", "white", {}, Context(shape=shape))
        process = subject.registry.build("process", name, {}, Context(shape=shape, noise=noise))
        diffusion = Diffusion(shape, process, noise, pairing=pairing)
        network = SmallNetwork(shape, 1 + process.extra_heads)
        loss, _ = diffusion.loss(network, x0, latents=latents, t=t)
        expect(bool(torch.isfinite(loss)), f"the loss under {name} is {loss.item()}")


@check("pairing", EXACT)
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds it gives a permutation, or
    refuses with a reason.
    """

    def attempt(changed: dict[str, Any]) -> None:
        pairing, *batch = batch_for(subject, **changed)
        check_permutation(pairing(*batch), 9)

    try_bounds(subject, attempt)
