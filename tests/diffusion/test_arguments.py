"""The library's public functions: wrong arguments are one line, and edges of the right ones hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import noisereg
from noisereg.api import per_sample
from noisereg.diffusion.adjust import constant, pull
from noisereg.diffusion.law import log_ratio
from noisereg.errors import NoiseregError

SHAPE = (3, 8, 8)


def images(count: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def zeros(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize("noise", ["blue", "blue:factor=spectral", "blue-tv", "red-tv"])
@pytest.mark.parametrize("size", [(16, 16), (16, 64), (64, 64), (8, 32)])
def test_a_coloured_noise_takes_no_images_of_another_size(
    noise: str, size: tuple[int, int]
) -> None:
    """As many numbers as whole images have are reshaped without a word: their pixels mix."""
    made = noisereg.build("noise", noise, shape=(3, 32, 32))
    t = torch.full((64,), 0.5, dtype=torch.float64)
    x = torch.zeros(64, 3, *size)
    calls = [lambda: made.draw(x, t), lambda: made.whiten(x, t)]
    calls += [lambda: made.basis({"z": x})] * noise.endswith("tv")
    for call in calls:
        with pytest.raises(NoiseregError, match=r"is of 32×32 pixels, and is given \(64, 3, "):
            call()


def test_tiles_take_no_images_of_another_size() -> None:
    made = noisereg.build("noise", "blue", shape=(1, 96, 64))
    with pytest.raises(NoiseregError, match="is of 96×64 pixels"):
        made.draw(torch.zeros(2, 1, 64, 96), torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("process", ["ddpm:zero_terminal_snr=true,target=v", "iadb"])
def test_a_function_scales_nothing_where_no_signal_is_left(process: str) -> None:
    """a(1) is cos(π/2) = 6e-17 for ddpm, by which x̂0 would be divided."""
    diffusion = noisereg.Diffusion((2,), process=process)

    def sample(scale: Any) -> Tensor:
        source = torch.Generator().manual_seed(0)
        return diffusion.sample(zeros, 4, steps=4, eps_scale=scale, generator=source)

    assert sample(lambda eps, t: 1.02 * eps).abs().max() < 10
    torch.testing.assert_close(sample(lambda eps, t: eps), sample(1.0))


@pytest.mark.parametrize(
    "given", [(4, 3, 1, 1), (1, 3, 8, 8), (4, 3, 9, 9), (4, 4, 8, 8), (4, 3, 8), (4, 3)]
)
def test_a_networks_output_of_another_shape_is_refused(given: tuple[int, ...]) -> None:
    diffusion = noisereg.Diffusion(SHAPE)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(given)

    said = r"the network gave \(" + ", ".join(map(str, given))
    with pytest.raises(NoiseregError, match=said):
        diffusion.loss(net, images())
    with pytest.raises(NoiseregError, match=said):
        diffusion.sample(net, 4, steps=2)


def test_a_learned_variance_needs_a_bound() -> None:
    learned = "ddpm:variance=learned,zero_terminal_snr=true,target=v"
    with pytest.raises(NoiseregError, match="which a pairing gives up"):
        noisereg.Diffusion(SHAPE, process=learned, pairing="greedy")
    alone = noisereg.build("process", learned, shape=SHAPE)
    with pytest.raises(NoiseregError, match="was built without it"):
        noisereg.Diffusion(SHAPE, process=alone, noise="blue")
    noisereg.Diffusion(SHAPE, process=alone)
    named = noisereg.Diffusion(SHAPE, process=learned, noise="blue")
    assert not named.process.diagonal  # type: ignore[attr-defined]


def test_a_pairing_takes_no_condition() -> None:
    diffusion = noisereg.Diffusion(SHAPE, pairing="greedy")
    with pytest.raises(NoiseregError, match="a pairing with a condition"):
        diffusion.loss(zeros, images(), cond=torch.zeros(4))


def test_guidance_without_its_absence_is_refused_in_a_prediction_too() -> None:
    diffusion = noisereg.Diffusion(SHAPE)
    t = torch.full((4,), 0.5)
    with pytest.raises(NoiseregError, match="guidance=7 mixes the outputs"):
        diffusion.predict(zeros, images(), t, cond=torch.zeros(4), guidance=7.0)


@pytest.mark.parametrize("reg", ["none", "isotropy", "isotropy:mean=sample-plain"])
@pytest.mark.parametrize("weighting", ["none", "min-snr", "p2"])
def test_a_time_of_0_is_finite_under_an_x0_target(weighting: str, reg: str) -> None:
    net = nn.Conv2d(3, 3, 1)
    diffusion = noisereg.Diffusion(SHAPE, process=f"ddpm:target=x0,weighting={weighting}", reg=reg)
    loss, _ = diffusion.loss(lambda x, t: net(x), images(), t=torch.tensor([0.0, 0.1, 0.5, 1.0]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_min_snrs_weight_of_an_x0_target_is_its_cap_where_little_noise_is() -> None:
    process = noisereg.build("process", "ddpm:target=x0,weighting=min-snr", shape=SHAPE)
    t = torch.tensor([0.0, 0.01], dtype=torch.float64)
    torch.testing.assert_close(process.weight(t), torch.full((2,), 5.0, dtype=torch.float64))


def test_sampling_leaves_each_module_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
            self.seen: list[bool] = []

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.seen += [self.training, self.norm.training, self.conv.training]
            return self.conv(self.norm(x))

    net = Net().train()
    net.norm.eval()  # frozen by its owner
    noisereg.Diffusion(SHAPE).sample(net, 1, steps=2)
    assert not any(net.seen)
    assert [net.training, net.norm.training, net.conv.training] == [True, False, True]


@pytest.mark.parametrize("noise", ["white", "blue-tv", "blue:factor=spectral"])
def test_samples_in_16_bits_round_what_the_network_is_given_and_no_more(noise: str) -> None:
    """Steps in bfloat16 took 3 to 6 % of the samples' spread, beside what the network's own
    rounding does.
    """
    process = "iadb" if noise != "white" else "ddpm"
    diffusion = noisereg.Diffusion(SHAPE, process=process, noise=noise)
    seen = set()

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.add(x.dtype)
        if process == "iadb":
            return torch.cat([x] * diffusion.outputs, 1)
        return per_sample(diffusion.process.noise_scale(t), x) * x

    def rounding(x: Tensor, t: Tensor) -> Tensor:
        return net(x.bfloat16(), t).float()

    def sample(net: Any, dtype: torch.dtype) -> Tensor:
        source = torch.Generator().manual_seed(0)
        return diffusion.sample(net, 64, steps=60, dtype=dtype, generator=source)

    half = sample(net, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert seen == {torch.bfloat16}
    assert torch.equal(half, sample(rounding, torch.float32).bfloat16())
    seen.clear()
    assert float(half.double().std() / sample(net, torch.float32).std()) == pytest.approx(
        1, abs=0.01
    )


def test_regularizers_of_one_class_have_a_column_each() -> None:
    terms = [noisereg.build("regularizer", "isotropy", shape=SHAPE) for _ in range(2)]
    diffusion = noisereg.Diffusion(SHAPE, reg=[*terms, "isotropy"])
    _, parts = diffusion.loss(zeros, images())
    assert {"isotropy", "isotropy.1", "isotropy.2"} <= parts.keys()
    assert [r.name for r in noisereg.Diffusion(SHAPE, reg=terms[0]).regularizers] == ["isotropy"]


WRONG: dict[str, Callable[[], Any]] = {
    "space=whiten: expected plain or whitened; did you mean 'whitened'?": lambda: (
        noisereg.isotropy(images(), space="whiten")  # type: ignore[arg-type]
    ),
    "level=foo: expected noise or one": lambda: noisereg.isotropy(images(), level="foo"),  # type: ignore[arg-type]
    "a time is nan: expected t in": lambda: noisereg.Diffusion(SHAPE).loss(
        zeros, images(), t=torch.tensor([0.0, float("nan"), 0.5, 1.0])
    ),
    "no kind is called 'nois'; did you mean 'noise'?": lambda: noisereg.build(
        "nois",  # type: ignore[arg-type]
        "white",
    ),
    "build() has no argument 'shap'; did you mean 'shape'?": lambda: noisereg.build(
        "noise", "white", shap=(3,)
    ),
    "str is no component": lambda: noisereg.register("x"),  # type: ignore[arg-type]
    "the noise is NoneType; expected a spec, such as 'white', or a Noise": lambda: (
        noisereg.Diffusion((2,), noise=None)  # type: ignore[arg-type]
    ),
    "the regularizer is int": lambda: noisereg.Diffusion((2,), reg=5),  # type: ignore[arg-type]
    "the pairing is int": lambda: noisereg.Diffusion((2,), pairing=3),  # type: ignore[arg-type]
    "T=10.5: expected at least 1 step": lambda: noisereg.Diffusion((2,), T=10.5),  # type: ignore[arg-type]
    "shape=5: expected one sample's": lambda: noisereg.Diffusion(5),  # type: ignore[arg-type]
    "steps=2.5: expected a whole number, at least 1": lambda: noisereg.Diffusion((2,)).sample(
        zeros, 1, steps=2.5
    ),  # type: ignore[arg-type]
    "samples are uint8; expected floating point, images in [-1, 1]": lambda: noisereg.Diffusion(
        SHAPE
    ).loss(zeros, images().byte()),
    "load() of int; expected a run's folder": lambda: noisereg.load(5),  # type: ignore[arg-type]
    "config is a dict; expected a Config": lambda: noisereg.sweep(
        {"noise": "white"},  # type: ignore[arg-type]
        out="S",
    ),
    "plugin=./mine.py: No such file": lambda: noisereg.sweep(out="S", plugins="./mine.py"),
    "optim.lr: expected auto, or a number, not 'abc'": lambda: noisereg.sweep(
        out="S",
        axes={"optim.lr": "abc"},
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_arguments_are_one_line(
    said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoiseregError) as error:
        WRONG[said]()
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_regularizer_may_be_said_in_three_ways() -> None:
    for reg in (None, (), "none"):
        assert noisereg.Diffusion((2,), reg=reg).regularizers == []  # type: ignore[arg-type]


def test_no_signal_is_none_at_all() -> None:
    """cos(π/2) is 6e-17, a log SNR of −37 to a solver, and a weight by which to divide."""
    one = torch.ones(2, dtype=torch.float64)
    process = noisereg.build(
        "process", "ddpm:zero_terminal_snr=true,target=v,weighting=min-snr", shape=(2,)
    )
    assert torch.equal(process.signal_scale(one), torch.zeros(2, dtype=torch.float64))
    assert torch.isneginf(log_ratio(process, one)).all()
    assert torch.equal(pull(process, one), torch.zeros(2, dtype=torch.float64))
    assert (pull(process, 0.9 * one) > 0).all()


@pytest.mark.parametrize("factor", [1.0418, 1.0424])
def test_a_factor_has_its_bound_between_thousandths_too(factor: float) -> None:
    """The gain of an x0 target grows to the 5 beyond which nothing is scaled, near t = .017, and
    with it the factor: 1/(1 − (1 − 1/1.0424)·25) is negative."""
    process = noisereg.build("process", "ddpm:target=x0", shape=(2,))
    with pytest.raises(NoiseregError, match=r"would have no bound.*below 1\.042"):
        constant(process, factor)
    t = torch.linspace(1e-3, 1, 20_001, dtype=torch.float64)
    one = torch.ones(len(t), 2, dtype=torch.float64)
    assert (constant(process, 1.04)(one, t) >= 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("noise", ["power-law", "blue:factor=spectral", "blue-tv:factor=spectral"])
def test_a_spectral_noise_has_16_bits(noise: str, dtype: torch.dtype) -> None:
    made = noisereg.build("noise", noise, shape=SHAPE)
    z, t = images().to(dtype), torch.full((4,), 0.5, dtype=torch.float64)
    drawn = made.color({"z": z}, t)
    assert drawn.dtype == dtype
    wanted = made.color({"z": z.float()}, t)
    assert (drawn.float() - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_noise_of_an_x0_target_is_finite_where_there_is_none(dtype: torch.dtype) -> None:
    process = noisereg.build("process", "ddpm:target=x0", shape=SHAPE)
    x = images().to(dtype)
    assert process.split(x, x, torch.zeros(4, dtype=torch.float64))[1].isfinite().all()


def test_bytes_and_other_shapes_are_refused_by_every_method() -> None:
    """The scales would be cut to whole numbers: x_t of 0 everywhere."""
    diffusion, t = noisereg.Diffusion(SHAPE), torch.full((4,), 0.5)
    with pytest.raises(NoiseregError, match="samples are uint8"):
        diffusion.add_noise(images().byte(), images(), t)
    with pytest.raises(NoiseregError, match=r"the noise is \(1, 3, 8, 8\)"):
        diffusion.add_noise(images(), images(1), t)
    with pytest.raises(NoiseregError, match="samples are int64"):
        diffusion.predict(zeros, images().long(), t)


@pytest.mark.parametrize("given", [None, (1,), {"sample": 3}])
def test_a_network_gives_a_tensor(given: Any) -> None:
    with pytest.raises(NoiseregError, match="the network gave no tensor"):
        noisereg.Diffusion(SHAPE).loss(lambda x, t: given, images())


X = torch.zeros(4, *SHAPE)
WRONG_TYPES: dict[str, tuple[str, Callable[[noisereg.Diffusion], Any]]] = {
    "samples": ("x is a ndarray; expected a torch.Tensor", lambda d: d.loss(zeros, X.numpy())),
    "no samples": ("no samples: the loss is a mean", lambda d: d.loss(zeros, X[:0])),
    "no network": ("the network is a NoneType", lambda d: d.loss(None, X)),
    "times": ("t is a list; expected a torch.Tensor", lambda d: d.loss(zeros, X, t=[0.5] * 4)),
    "a time's name": ("t is a str", lambda d: d.predict(zeros, X, "0.5")),
    "too few times": (r"times of shape \(3,\)", lambda d: d.predict(zeros, X, torch.zeros(3))),
    "a truth": ("t is a bool", lambda d: d.predict(zeros, X, True)),
    "a seed": (
        r"expected torch.Generator\(\).manual_seed\(3\)",
        lambda d: d.loss(zeros, X, generator=3),
    ),
    "a seed of samples": ("generator=3 is a int", lambda d: d.sample(zeros, 2, generator=3)),
    "latents": ("latents is a ndarray", lambda d: d.loss(zeros, X, latents=X.numpy())),
    "noise": ("eps is a ndarray", lambda d: d.add_noise(X, X.numpy(), 0.5)),
    "true steps": ("steps=True: expected a whole", lambda d: d.sample(zeros, 2, steps=True)),
    "true guidance": ("guidance=True is a bool", lambda d: d.sample(zeros, 2, guidance=True)),
    "how many": ("num=2.0: expected a whole number", lambda d: d.sample(zeros, 2.0)),
    "steps": ("steps='5': expected a whole number", lambda d: d.sample(zeros, 2, steps="5")),
    "guidance": ("guidance='2' is a str", lambda d: d.sample(zeros, 2, guidance="2")),
    "no guidance": ("guidance=nan: expected", lambda d: d.sample(zeros, 2, guidance=float("nan"))),
    "guidance below": ("guidance=-1: expected", lambda d: d.sample(zeros, 2, guidance=-1)),
    "two steps": (
        "steps=50: the grid has 3 steps",
        lambda d: d.sample(zeros, 2, steps=50, grid="times:values=1,0.5,0.1"),
    ),
    "a noise's time": ("times are a float", lambda d: d.noise.draw(X, 0.5)),
    "a device": ("device=gpu: expected cpu", lambda d: d.sample(zeros, 2, device="gpu")),
    "a dtype": ("dtype=float32: expected torch", lambda d: d.sample(zeros, 2, dtype="float32")),
    "integers": ("dtype=torch.int64: expected", lambda d: d.sample(zeros, 2, dtype=torch.int64)),
    "a scale": ("eps_scale='1' is a str", lambda d: d.sample(zeros, 2, eps_scale="1")),
    "a count of times": ("count='3': expected a whole", lambda d: d.draw_times("3")),
    "a count of latents": ("count=-3: expected a whole", lambda d: d.draw_latents(-3)),
    "one size": (
        "shape=8: expected one sample's",
        lambda d: noisereg.build("noise", "white", shape=8),
    ),
    "no spec": ("a component is a int", lambda d: noisereg.build("noise", 3, shape=SHAPE)),
}


@pytest.mark.parametrize(("said", "call"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_what_is_of_another_type_is_one_line(
    said: str, call: Callable[[noisereg.Diffusion], Any]
) -> None:
    with pytest.raises(NoiseregError, match=said):
        call(noisereg.Diffusion(SHAPE))


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.tensor(0.5).double().numpy()[()]])
def test_one_number_is_every_samples_time(t: Any) -> None:
    diffusion, times = noisereg.Diffusion(SHAPE), torch.full((4,), 0.5)
    draws = {"latents": images()}
    own, wanted = (
        diffusion.loss(zeros, X, t=t, **draws),
        diffusion.loss(zeros, X, t=times, **draws),
    )
    assert float(own[0]) == float(wanted[0]) > 0
    assert torch.equal(
        diffusion.add_noise(X, images(), t), diffusion.add_noise(X, images(), times)
    )
    exact = torch.full((4,), 0.3, dtype=torch.float64)
    assert torch.equal(
        diffusion.add_noise(X, images(), 0.3), diffusion.add_noise(X, images(), exact)
    )
    for end in (0, 1):  # without T a number is a time, and these are two
        assert diffusion.add_noise(X, images(), end).isfinite().all()
    counted = noisereg.Diffusion(SHAPE, T=10)
    assert torch.equal(counted.add_noise(X, images(), 4), diffusion.add_noise(X, images(), times))
