"""``Diffusion`` in somebody else's loop: the trainer's numbers, whatever the loop is."""

import contextlib
import multiprocessing
import os
import random

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import noisereg
from noisereg.api import Noise, Regularizer, Solver
from noisereg.cli.main import run as command
from noisereg.diffusion.adjust import Clip
from noisereg.diffusion.loss import Weighted
from noisereg.errors import NoiseregError
from noisereg.memory import Peak
from noisereg.plugins.registry import registry
from noisereg.python import Diffusion, build
from noisereg.runs.build import build_parts
from noisereg.runs.config import RuntimeConfig, load_plugins, validate
from noisereg.runs.feed import Feed
from noisereg.runs.runtime import Runtime

SHAPE = (1, 8, 8)


class Net(torch.nn.Module):
    """Small, and different at each t."""

    def __init__(self, outputs, channels=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(channels, 8, 3, padding=1)
            self.last = torch.nn.Conv2d(8, channels * outputs, 3, padding=1)

    def forward(self, x, t, cond=None):
        hidden = torch.tanh(self.first(x)) * (1 + t.reshape(-1, 1, 1, 1).to(x))
        if cond is not None:
            hidden = hidden + cond.reshape(-1, 1, 1, 1).to(x)
        return self.last(hidden)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6, seed=1, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=generator(seed), dtype=dtype) * 2 - 1


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


# The trainer's loss


@pytest.mark.parametrize("process", ["ddpm", "iadb", "ddpm:variance=learned"])
@pytest.mark.parametrize("noise", ["white", "blue-tv", "blue-tv:gamma.learn=true"])
def test_the_loss_is_the_trainers_to_the_last_bit(process, noise):
    config = validate(
        load_plugins(
            registry(),
            {
                "process": process,
                "noise": noise,
                "reg": ["isotropy:weight=0.3"],
                "denoiser": "mlp:width=16,dropout=0",
                "train": {"steps": 10, "batch_size": 8},
                "runtime": {"device": "cpu"},
            },
            [],
        )
    )
    runtime = Runtime.start(RuntimeConfig(device="cpu"))
    parts = build_parts(config, registry(), runtime)
    feed = Feed(
        parts.config,
        parts.dataset.split("train"),
        parts.shape,
        parts.dataset.flip,
        parts.task,
        parts.noise,
        parts.process,
        runtime,
    )
    batch = feed.prepare(3, 0)
    for p in parts.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator())
    trainers = parts.objective(batch.x0, batch.latents, batch.t, batch.cond, 3)
    trainers.loss.backward()
    expected = gradients(parts.denoiser)
    parts.denoiser.zero_grad()
    diffusion = Diffusion(parts.shape, process, noise, "isotropy:weight=0.3", steps=10)
    # A learned variance's decoder knows the data's grey levels, which a loop's tensors do not tell.
    diffusion.process.levels = getattr(parts.process, "levels", 0)
    own = diffusion.loss(parts.denoiser, batch.x0, latents=batch.latents, t=batch.t, step=3)
    own.loss.backward()
    assert torch.equal(own.loss, trainers.loss)
    assert own.parts.keys() == trainers.parts.keys()
    assert all(torch.equal(own.parts[name], value) for name, value in trainers.parts.items())
    assert expected.abs().max() > 0
    assert torch.equal(gradients(parts.denoiser), expected)


# What a loop does to it


def loss_of(diffusion, net, x0):
    net.zero_grad()
    loss, _ = diffusion.loss(net, x0, generator=generator(5))
    loss.backward()
    return loss.detach(), gradients(net)


def test_a_compiled_step_gives_the_eager_loss():
    """The graph that Dynamo captures; inductor, too slow for every run of the tests, agreed to
    1e-5 with torch 2.14.
    """
    diffusion = Diffusion(SHAPE, "iadb", "blue-tv", "isotropy:weight=0.1")
    net, x0 = Net(diffusion.outputs), images()
    z = torch.randn(x0.shape, generator=generator())
    t = torch.rand(6, generator=generator(), dtype=torch.float64)

    def step(x0, z, t):
        net.zero_grad()
        loss = diffusion.loss(net, x0, latents=z, t=t).loss
        loss.backward()
        return loss.detach(), gradients(net)

    eager, wanted = step(x0, z, t)

    def loss_alone(x0, z, t):
        return diffusion.loss(net, x0, latents=z, t=t).loss

    net.zero_grad()
    loss = torch.compile(loss_alone, backend="eager")(x0, z, t)
    loss.backward()
    assert torch.allclose(loss, eager, rtol=1e-6)
    assert torch.allclose(gradients(net), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("noise", ["blue-tv:factor=cholesky", "blue-tv:factor=spectral", "blue"])
def test_autocast_reaches_the_network_alone(noise):
    """Its own products stay float32: the noise is the same to the last bit, and the loss within
    bfloat16's 2⁻⁸ of the output."""
    diffusion = Diffusion(SHAPE, "iadb", noise, "isotropy:weight=0.1,space=whitened")
    net, x0 = Net(diffusion.outputs), images()
    seen, formats = [], set()

    def watched(x, t):
        seen.append(x)
        out = net(x, t)
        formats.add(out.dtype)
        return out

    full, _ = diffusion.loss(watched, x0, generator=generator(5))
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = diffusion.loss(watched, x0, generator=generator(5))
        eps = diffusion.noise.draw(x0, torch.full((6,), 0.4), generator=generator(5))
    assert formats == {torch.float32, torch.bfloat16}
    assert half.dtype == torch.float32
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(eps, diffusion.noise.draw(x0, torch.full((6,), 0.4), generator(5)))
    assert half.item() == pytest.approx(full.item(), rel=2**-6)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = diffusion.sample(net, 2, steps=3, generator=generator())
    assert drawn.dtype == torch.float32
    assert (drawn - diffusion.sample(net, 2, steps=3, generator=generator())).abs().max() < 0.1


def of_a_rank(rank, world, folder):
    """The gradient and the isotropy of one rank's share of twelve images, its network in DDP."""
    diffusion = Diffusion(
        SHAPE, "iadb", "blue-tv", ["isotropy:weight=1", "isotropy:weight=1,mean=sample"]
    )
    net = Net(2).double()
    x0, z = images(12, dtype=torch.float64), images(12, seed=2, dtype=torch.float64) * 2
    t = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    mine = slice(12 // world * rank, 12 // world * (rank + 1))
    model = net
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
        )
        model = torch.nn.parallel.DistributedDataParallel(net)
    loss, parts = diffusion.loss(model, x0[mine], latents=z[mine], t=t[mine])
    loss.backward()
    torch.save((gradients(net), parts["isotropy"]), f"{folder}/{rank}-of-{world}.pt")
    if world > 1:
        torch.distributed.barrier()
        os._exit(0)  # as noisereg/__main__.py


def test_two_ranks_have_the_gradient_of_one(tmp_path):
    forked = multiprocessing.get_context("fork")
    ranks = [forked.Process(target=of_a_rank, args=(r, 2, str(tmp_path))) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
    of_a_rank(0, 1, str(tmp_path))
    one, first, second = (torch.load(tmp_path / f"{k}.pt") for k in ("0-of-1", "0-of-2", "1-of-2"))
    assert one[0].abs().max() > 1e-3
    for two in (first, second):
        assert torch.allclose(one[0], two[0], rtol=1e-9, atol=1e-12)
        assert torch.allclose(one[1], two[1], rtol=1e-9)


# What is given


@pytest.mark.parametrize("noise", ["white", "blue-tv:factor=spectral", "blue-tv:factor=cholesky"])
def test_float64_in_gives_float64_out(noise):
    diffusion = Diffusion(SHAPE, "iadb", noise, "isotropy:weight=0.1")
    net = Net(diffusion.outputs).double()
    loss, _ = diffusion.loss(net, images(dtype=torch.float64), generator=generator())
    assert loss.dtype == torch.float64
    drawn = diffusion.sample(net, 2, steps=2, dtype=torch.float64, generator=generator())
    assert drawn.dtype == torch.float64
    z = torch.randn(2, *SHAPE, dtype=torch.float32, generator=generator())
    assert diffusion.sample(net.float(), 2, steps=2, latents=z).dtype == torch.float32


def test_a_loops_steps_are_times_of_T():
    given = {"process": "ddpm", "noise": "blue-tv"}
    by_time, by_step = Diffusion(SHAPE, **given), Diffusion(SHAPE, **given, T=1000)
    net, x0, k = Net(by_time.outputs), images(), torch.tensor([0, 1, 499, 500, 998, 999])
    z = torch.randn(x0.shape, generator=generator())
    one = by_step.loss(net, x0, latents=z, t=k).loss
    assert torch.equal(one, by_time.loss(net, x0, latents=z, t=(k + 1).double() / 1000).loss)
    told = []

    def asked(x, t):
        told.append(t)
        return net(x, t)

    Diffusion(SHAPE, **given, T=1000, time_input="index").loss(asked, x0, latents=z, t=k)
    assert torch.equal(told[0], k.float())  # what the loop counts is what the network is told
    Diffusion(SHAPE, **given, time_input="step").loss(asked, x0, t=(k + 1).double() / 1000)
    assert torch.equal(told[1], (k + 1).float())


@pytest.mark.parametrize(
    ("made", "given", "said"),
    [
        ({}, {"t": torch.arange(6)}, "times are int64: expected t in .0, 1."),
        ({}, {"t": torch.full((6,), 1.5)}, "a time is 1.5"),
        ({}, {"t": torch.full((6,), -0.5)}, "a time is -0.5"),
        ({"T": 5}, {"t": torch.arange(6)}, "expected 0 to 4, as T=5 says"),
        ({"T": 5}, {"t": torch.arange(6) - 1}, "expected 0 to 4"),
        (
            {},
            {"x0": torch.zeros(6, 3, 8, 8)},
            "of shape .3, 8, 8.; this diffusion is for .1, 8, 8.",
        ),
        ({}, {"t": torch.full((5,), 0.5)}, r"times of shape \(5,\); expected \(6,\)"),
        ({}, {"latents": torch.zeros(6, 1, 8, 9)}, "latents are z .6, 1, 8, 9."),
        ({}, {"latents": torch.zeros(5, 1, 8, 8)}, "latents are z .5, 1, 8, 8."),
        (
            {},
            {"latents": {"y": torch.zeros(6, 1, 8, 8)}},
            "latents are y .*; expected z .6, 1, 8, 8.",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(made, given, said):
    diffusion = Diffusion(SHAPE, **made)
    given = {"x0": images(), **given}
    with pytest.raises(NoiseregError, match=said):
        diffusion.loss(Net(1), given.pop("x0"), **given)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"noise": "blu"}, "did you mean 'blue'"),
        ({"process": "iadbb"}, "did you mean 'iadb'"),
        ({"reg": "isotropi"}, "did you mean 'isotropy'"),
        ({"reg": "isotropy:weigth=1"}, "weight"),
        ({"reg": "isotropy:schedule=linear"}, "expected steps=N"),
        ({"noise": "blue", "process": "ddpm:target=eps"}, "cannot be read from ε"),
        (
            {"time_input": "steps"},
            "time_input=steps: expected index, step, unit; did you mean 'step'",
        ),
        ({"T": 0}, "T=0: expected at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(made, said):
    with pytest.raises(NoiseregError, match=said):
        Diffusion(SHAPE, **made)


def test_a_network_of_the_wrong_size_is_refused():
    diffusion = Diffusion(SHAPE, "iadb", "blue-tv")
    assert diffusion.outputs == 2
    with pytest.raises(NoiseregError, match=r"gave \(6, 1, 8, 8\); expected \(B, 2, …\)"):
        diffusion.loss(Net(1), images())


# Sampling


@pytest.mark.parametrize(
    ("process", "noise", "solver", "grid"),
    [
        ("iadb", "blue-tv", None, None),
        ("iadb", "blue", "ddim:eta=0", "logsnr"),
        ("iadb", "blue-tv", "heun", "edm:rho=7"),
        ("iadb", "blue-tv", "dpmpp-2m", None),
        ("ddpm:target=v", "white", "ddim:eta=0.5", "chebyshev"),
        ("ddpm:target=v", "blue-tv", "heun", "times:values=1,0.5,0.1"),
    ],
)
def test_any_solver_and_grid_by_spec(process, noise, solver, grid):
    diffusion = Diffusion(SHAPE, process, noise)
    net = Net(diffusion.outputs)
    steps = None if grid and grid.startswith("times") else 4  # such a grid has its own
    options = {"steps": steps, "solver": solver, "grid": grid}
    drawn = diffusion.sample(net, 3, **options, generator=generator())
    assert drawn.shape == (3, *SHAPE)
    assert drawn.isfinite().all()
    assert torch.equal(drawn, diffusion.sample(net, 3, **options, generator=generator()))
    assert not torch.equal(drawn, diffusion.sample(net, 3, **options, generator=generator(1)))
    built = {
        "solver": solver and build("solver", solver),
        "grid": grid and build("grid", grid),
    }
    again = diffusion.sample(net, 3, steps=steps, **built, generator=generator())
    assert torch.equal(drawn, again)


class Waiting(TorchDispatchMode):
    """Refuses to tell a tensor's value to Python, for which a device must have done its work."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        told = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        assert func not in told, "a step waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", ["ddim:eta=0", "ddim:eta=1", "heun", "dpmpp-2m"])
@pytest.mark.parametrize(
    ("process", "noise"),
    [
        ("ddpm", "white"),
        ("ddpm:target=v", "blue"),
        ("ddpm:variance=learned", "blue-tv"),
        ("ddpm", "red-tv:factor=spectral"),
        ("iadb", "blue-tv:gamma.learn=true"),
    ],
)
def test_no_step_waits_for_the_device(process, noise, solver, monkeypatch):
    """Scaled, clipped and guided, too. (A noise looks at every t on a CPU alone.)"""
    monkeypatch.setattr("noisereg.api.check_times", lambda t, by_value: None)
    diffusion = Diffusion(SHAPE, process, noise)
    net = Net(diffusion.outputs)
    calls = iter(
        diffusion.trajectory(
            lambda x, t, cond: net(x, t) + cond.reshape(-1, 1, 1, 1),
            lambda k: diffusion.draw_latents(3, generator(k)),
            torch.linspace(1, 0, 5, dtype=torch.float64),
            build("solver", solver),
            cond=torch.ones(3),
            null=torch.zeros(3),
            guidance=1.5,
            eps_scale=lambda eps, t: 0.99 * eps,
            clip=Clip("dynamic"),
        )
    )
    next(calls)
    with torch.no_grad(), Waiting():
        steps = list(calls)
    assert len(steps) == 4
    with pytest.raises(AssertionError, match="waits"), Waiting():
        float(steps[0].sum())


def test_times_of_a_trajectory_are_looked_at_once_and_before_it():
    diffusion = Diffusion(SHAPE, "iadb", "white")
    times = torch.tensor([1.0, -0.5], dtype=torch.float64)
    with pytest.raises(NoiseregError, match="a time is -0"):
        diffusion.trajectory(Net(1), diffusion.draw_latents, times, build("solver", "ddim"))


def test_one_step_is_the_formula():
    """x_0 = x̂0 at (b·L z, 1) for a single step, in the network's mode of use, which is restored."""
    diffusion = Diffusion(SHAPE, "iadb", "blue")
    net, z = Net(1), torch.randn(2, *SHAPE, generator=generator())
    drawn = diffusion.sample(net, 2, steps=1, latents=z, grid="uniform")
    one = torch.ones(2, dtype=torch.float64)
    x1 = diffusion.noise.color(z, one)
    assert torch.allclose(drawn, x1 + net(x1, one).detach(), atol=1e-6)
    assert net.training
    with pytest.raises(NoiseregError, match="at least 1"):
        diffusion.sample(net, 0)
    with pytest.raises(NoiseregError, match="eulerr"):
        diffusion.sample(net, 1, solver="eulerr")


def test_guidance_is_the_mix_of_two_outputs():
    diffusion = Diffusion(SHAPE, "iadb", "blue-tv")
    net, cond = Net(2), torch.tensor([1.0, 2.0])
    null, x, t = torch.zeros(2), images(2), torch.full((2,), 0.5, dtype=torch.float64)
    told, untold = (diffusion.predict(net, x, t, c) for c in (cond, null))
    mixed = diffusion.predict(net, x, t, cond, guidance=3.0, null=null)
    for name in ("x0_hat", "eps_hat", "heads"):
        a, b = getattr(told, name), getattr(untold, name)
        assert torch.allclose(getattr(mixed, name), b + 3 * (a - b), atol=1e-5)
    options = {"steps": 2, "generator": generator(), "cond": cond}
    plain = diffusion.sample(net, 2, **options)
    options["generator"] = generator()
    guided = diffusion.sample(net, 2, **options, guidance=3.0, null=null)
    assert (plain - guided).abs().max() > 1e-3
    with pytest.raises(NoiseregError, match="null"):
        diffusion.sample(net, 2, cond=cond, guidance=3.0)
    loss, _ = diffusion.loss(net, images(2), cond=cond, generator=generator())
    assert loss.isfinite()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return noisereg.train(
        noise="blue-tv",
        process="iadb",
        reg=["isotropy:weight=0.2"],
        denoiser="mlp:width=16",
        train={"steps": 2, "batch_size": 8},
        sample={"steps": 3},
        runtime={"device": "cpu"},
        out=tmp_path_factory.mktemp("run") / "a",
    )


def test_a_runs_diffusion_and_net_draw_its_samples(run):
    from noisereg.runs.run import draw

    model = run.model(steps=3)
    z = model.latents(range(4), 0)
    drawn = run.diffusion.sample(run.net, 4, steps=3, latents=z)
    assert torch.allclose(drawn, draw(model, range(4)), atol=1e-6)
    assert [(r.name, r.weight) for r in run.diffusion.regularizers] == [("isotropy", 0.2)]
    loss, _ = run.diffusion.loss(run.net, images(4))
    assert loss.requires_grad


@pytest.mark.parametrize("solver", ["ddim:eta=1", "dpmpp-2m"])
def test_samples_do_not_depend_on_how_many_memory_has_room_for_at_once(run, solver, monkeypatch):
    """Room for some of 40, for less than one, and for all: the same latents to the bit, samples
    to rounding, and never more memory than there is.
    """
    from noisereg.runs import run as runs

    model = run.model(steps=3, solver=solver)

    def needed(count):
        with torch.inference_mode(), Peak() as peak:
            for _ in model.trajectory(range(count)):
                pass
        return peak.most

    needed(1)  # what is computed once and kept is not counted again
    latents, drawn, sizes = type(model).latents, [], []
    for room in (needed(20), 1, 2 * needed(40)):
        monkeypatch.setattr(runs, "free_host_memory", lambda room=room: room / runs.ROOM)
        sizes.append(runs.at_once(model, range(40)))
        starts = []

        def recording(self, indices, step, starts=starts):
            starts.extend([tuple(indices)] * (step == 0))
            return latents(self, indices, step)

        monkeypatch.setattr(type(model), "latents", recording)
        drawn.append(runs.draw(model, range(40)))
        monkeypatch.setattr(type(model), "latents", latents)
        batches = [tuple(range(40)[k : k + sizes[-1]]) for k in range(0, 40, sizes[-1])]
        assert starts[-len(batches) :] == batches  # after those that were measured
    assert sizes[1:] == [1, 40]
    assert 10 < sizes[0] <= 20
    assert needed(sizes[0]) <= needed(20)
    for other in drawn[1:]:
        assert torch.allclose(drawn[0], other, atol=1e-5)


# Global generators


@contextlib.contextmanager
def untouched():
    """What is drawn next by anyone else is what would have been."""

    def states():
        kind, *numbers = np.random.get_state()
        return [torch.get_rng_state(), kind, *numbers, random.getstate()]

    before = states()
    yield
    after = states()
    assert torch.equal(before[0], after[0]), "torch's"
    assert before[1] == after[1], "numpy's"
    assert np.array_equal(before[2], after[2]), "numpy's"
    assert before[3:] == after[3:], "numpy's or random's"


def test_no_global_generator_is_touched(run, tmp_path, capsys):
    diffusion = Diffusion(SHAPE, "ddpm:target=v", "blue-tv", "isotropy")
    net, x0 = Net(diffusion.outputs), images()
    with untouched():
        diffusion.loss(net, x0, generator=generator())
        diffusion.sample(net, 2, steps=2, generator=generator())
        diffusion.noise.draw(x0, torch.full((6,), 0.5), generator=generator())
        Diffusion(SHAPE, "iadb", "blue-tv:gamma.learn=true", pairing="greedy")
    with untouched():
        noisereg.load(run.path).sample(2)
    with untouched():
        assert run.net is not None
        assert run.diffusion is not None
    short = ["--steps", "2", "--batch-size", "8", "--denoiser", "mlp:width=16"]
    with untouched():
        assert command(["train", "--dry-run", *short]) == 0
    with untouched():
        assert command(["train", *short, "--out", str(tmp_path / "b")]) == 0
    capsys.readouterr()


def test_regularizers_may_be_built_or_weighted():
    term = build("regularizer", "isotropy", shape=SHAPE)
    diffusion = Diffusion(SHAPE, "iadb", "white", [term, Weighted("twice", 2.0, term), "isotropy"])
    _, parts = diffusion.loss(Net(1), images(), generator=generator())
    assert torch.equal(parts["twice"], parts["isotropy"])
    assert [r.weight for r in diffusion.regularizers] == [1.0, 2.0, 0.1]


class Named(Regularizer):
    """A term of 2 that says what it likes under names that others have."""

    def __init__(self, **said):
        self.said = {name: torch.tensor(float(v)) for name, v in said.items()}

    def __call__(self, s):
        return 0 * s.mean(s.eps_hat.flatten(1).square().mean(1)) + 2

    def logs(self):
        return self.said


def test_no_part_of_the_loss_hides_another():
    """Under "loss" a run is stopped that is not finite."""
    terms = [Weighted("loss", 1.0, Named(mse=5)), Weighted("b", 1.0, Named(loss=7, b=8))]
    total, parts = Diffusion(SHAPE, "iadb", "white", terms).loss(
        Net(1), images(), generator=generator()
    )
    assert parts["loss"] == total.detach()
    assert float(parts["mse"]) + 4 == pytest.approx(total.item())
    assert {name: float(parts[name]) for name in set(parts) - {"loss", "mse"}} == {
        "reg/loss": 2, "reg/loss/mse": 5, "b": 2, "b/loss": 7, "b/b": 8,
    }  # fmt: skip


class Liar(Solver):
    """Says nothing of being stochastic."""

    def step(self, s):
        return s.x_t + s.fresh()


class Forgetful(Solver):
    def step(self, s):
        s.x_t.sum()


@pytest.mark.parametrize(
    ("solver", "said"),
    [(Liar(), "Liar says that it is deterministic"), (Forgetful(), "Forgetful.step gave None")],
)
def test_a_solver_that_is_not_what_it_says_is_refused(solver, said):
    with pytest.raises(NoiseregError, match=said):
        Diffusion(SHAPE, "iadb").sample(Net(1), 2, steps=3, solver=solver)


class Drifts(Noise):
    """ε_t = (1 + t) z, and carried as if it were static."""

    def color(self, latents, t):
        return latents["z"] * (1 + t.to(latents["z"].dtype).view(-1, *[1] * 3))

    def mean_square(self, t):
        return (1 + t).square()


class DriftsAndSaysSo(Drifts):
    def transport(self, eps, heads, t, s):
        return eps * ((1 + s) / (1 + t)).to(eps.dtype).view(-1, *[1] * 3)


def test_a_noise_that_changes_with_t_and_is_carried_as_static_is_refused():
    with pytest.raises(NoiseregError, match="noise Drifts changes with t and has no transport"):
        noisereg.Diffusion(shape=(1, 8, 8), noise=Drifts())
    noisereg.Diffusion(shape=(1, 8, 8), noise=DriftsAndSaysSo())


class Unready(Noise):
    """It knows what it makes only later, or elsewhere."""

    table = None

    def color(self, latents, t):
        return latents["z"] * self.table

    def mean_square(self, t):
        return torch.ones_like(t)


class NotANumberYet(Unready):
    table = float("nan")


@pytest.mark.parametrize("noise", [Unready(), NotANumberYet()])
def test_a_noise_that_is_not_ready_is_not_refused_for_its_transport(noise):
    noisereg.Diffusion(shape=(1, 8, 8), noise=noise)
