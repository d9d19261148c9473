"""The scheduler gives diffusers' numbers for white noise, and ours for any other."""

import inspect
import warnings

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from noisereg.errors import NoiseregError
from noisereg.exchange.scheduler import NoiseScheduler
from noisereg.python import Diffusion

SHAPE = (1, 8, 8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unet(outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=outputs,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        ).eval()


def trajectory(scheduler, network, steps, dtype=torch.float64, **options):
    """x after each step of diffusers' own loop."""
    scheduler.set_timesteps(steps)
    x = torch.randn(3, *SHAPE, generator=generator(), dtype=dtype)
    seen, noise = [], generator(7)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, generator=noise, **options).prev_sample
        seen.append(x)
    return torch.stack(seen)


def wave(x, t):
    """A network that depends on x and t, in any dtype."""
    return torch.tanh(x * (1 + t / 1000)) + torch.cos(t / 300)


KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def theirs(kind, target, schedule, **more):
    """diffusers' scheduler with our settings and its tables in float64."""
    scheduler = kind(
        beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[schedule],
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=KINDS[target],
        clip_sample=False,
        timestep_spacing="trailing",
        **more,
    )
    from noisereg.processes.ddpm import cosine_betas, linear_betas

    betas = linear_betas(1000) if schedule == "linear" else cosine_betas(1000)
    exact = (1 - betas).cumprod(0)
    assert torch.allclose(scheduler.alphas_cumprod.double(), exact, atol=1e-5)
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, exact
    if hasattr(scheduler, "one"):
        scheduler.one = scheduler.one.double()
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_white_noise_steps_as_diffusers_ddim(target, schedule, eta):
    ours = NoiseScheduler(SHAPE, process=f"ddpm:target={target},schedule={schedule}")
    other = theirs(DDIMScheduler, target, schedule)
    mine, wanted = (trajectory(s, wave, 10, eta=eta) for s in (ours, other))
    assert ours.timesteps.dtype == torch.int64
    assert torch.equal(ours.timesteps, other.timesteps)
    scale = wanted.abs().max()
    assert (mine - wanted).abs().max() / scale < 1e-9


@pytest.mark.parametrize("target", ["x0", "v"])
@pytest.mark.parametrize("variance", ["beta-tilde", "beta"])
def test_white_noise_steps_as_diffusers_ddpm(target, variance):
    ours = NoiseScheduler(SHAPE, process=f"ddpm:target={target},variance={variance}")
    kind = {"beta-tilde": "fixed_small", "beta": "fixed_large"}[variance]
    other = theirs(DDPMScheduler, target, "linear", variance_type=kind)
    # On the step to 0 theirs adds a noise of its own where that is not at index 0.
    mine, wanted = (trajectory(s, wave, 20)[:-1] for s in (ours, other))
    assert (mine - wanted).abs().max() / wanted.abs().max() < 1e-9


def test_float32_tables_are_as_near_as_they_are_precise():
    ours = NoiseScheduler(SHAPE, process="ddpm:target=v")
    other = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    )
    mine, wanted = (trajectory(s, wave, 10, torch.float32, eta=0.0) for s in (ours, other))
    assert (mine - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("process", ["ddpm", "iadb"])
@pytest.mark.parametrize("noise", ["white", "blue-tv", "blue"])
def test_noise_is_added_as_by_the_law(process, noise):
    scheduler, diffusion = NoiseScheduler(SHAPE, noise, process), Diffusion(SHAPE, process, noise)
    x0, z = torch.rand(4, *SHAPE, generator=generator()), torch.randn(4, *SHAPE)
    k = torch.tensor([0, 10, 500, 999])
    t = (k + 1).double() / 1000
    wanted = diffusion.add_noise(x0, diffusion.noise.color(z, t), t)
    assert torch.equal(scheduler.add_noise(x0, z, k), wanted)
    if (process, noise) == ("ddpm", "white"):
        assert torch.allclose(wanted, DDPMScheduler().add_noise(x0, z, k), atol=1e-5)


@pytest.mark.parametrize(
    ("process", "noise"),
    [("iadb", "blue-tv"), ("ddpm", "white"), ("ddpm", "blue"), ("iadb", "red-tv:normalize=true")],
)
def test_a_network_regressed_on_the_target_has_the_diffusions_loss(process, noise):
    scheduler, diffusion = NoiseScheduler(SHAPE, noise, process), Diffusion(SHAPE, process, noise)
    x0, z = torch.rand(4, *SHAPE, generator=generator()), torch.randn(4, *SHAPE)
    k = torch.tensor([0, 10, 500, 999])
    out = torch.randn(4, diffusion.outputs, 8, 8, generator=generator(3))
    _, parts = diffusion.loss(lambda x, t: out, x0, latents=z, t=(k + 1).double() / 1000)
    error = (out - scheduler.target(x0, z, k)).square()
    assert error[:, :1].mean().item() == pytest.approx(parts["mse"].item(), rel=1e-5)
    if diffusion.outputs == 2:
        assert error[:, 1:].mean().item() == pytest.approx(parts["mse_heads"].item(), rel=1e-5)


# In diffusers' own pipelines


def feed(monkeypatch, z):
    """Both pipelines start from ``z``."""
    for module in ("ddim.pipeline_ddim", "ddpm.pipeline_ddpm"):
        monkeypatch.setattr(f"diffusers.pipelines.{module}.randn_tensor", lambda *a, **k: z)


def sampled(pipeline, steps):
    pipeline.set_progress_bar_config(disable=True)
    count = {"batch_size": 3, "num_inference_steps": steps}
    return pipeline(**count, output_type="pt").images * 2 - 1


@pytest.mark.parametrize(
    ("process", "noise", "solver"),
    [
        ("iadb", "blue-tv", "ddim"),
        ("iadb", "blue", "ddim"),
        ("iadb", "blue-tv:transport=whiten", "ddim"),
        ("iadb", "blue-tv", "dpmpp-2m"),
        ("ddpm:target=v", "blue-tv", "ddim:eta=0"),
        ("ddpm:target=x0,zero_terminal_snr=true", "blue", "dpmpp-2m"),
        ("ddpm:target=v,T=400", "red-tv", "ddim:eta=0"),
    ],
)
@pytest.mark.parametrize("time_input", ["index", "unit"])
def test_any_noise_in_either_pipeline(monkeypatch, process, noise, solver, time_input):
    """To float32's rounding, in DDIMPipeline too, which is given no start of ours."""
    scheduler = NoiseScheduler(SHAPE, noise, process, solver=solver, time_input=time_input)
    diffusion = Diffusion(SHAPE, process, noise, time_input=time_input)
    network, z = unet(diffusion.outputs), torch.randn(3, *SHAPE, generator=generator(2))
    feed(monkeypatch, z)
    with torch.no_grad():
        ours = diffusion.sample(network, 3, steps=5, solver=solver, latents=z).clamp(-1, 1)
    ddim = DDIMPipeline(network, DDIMScheduler())
    ddim.scheduler = scheduler
    for pipeline in (DDPMPipeline(network, scheduler), ddim):
        for _ in range(2):  # a scheduler is used again
            assert (sampled(pipeline, 5) - ours).abs().max() < 1e-4
    assert ours.std() > 0.05


def test_a_trained_run_in_ddim_pipeline_draws_our_samples(train, monkeypatch):
    from noisereg.runs.run import draw

    run = train("run", noise="blue-tv", process="iadb", reg=["isotropy"])
    model = run.model(steps=10)
    ours = draw(model, range(3)).clamp(-1, 1)
    pipeline = DDIMPipeline(run.net.unet, DDIMScheduler())
    pipeline.scheduler = NoiseScheduler(SHAPE, noise="blue-tv", process="iadb")
    feed(monkeypatch, model.latents(range(3), 0)["z"])
    assert ours.std() > 0.05
    assert (sampled(pipeline, 10) - ours).abs().max() < 1e-4


def test_fresh_noise_is_coloured_and_comes_from_the_generator():
    scheduler = NoiseScheduler(SHAPE, "blue", "iadb", solver="ddim:eta=1")
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[2]
    x, out = torch.randn(2, *SHAPE), torch.zeros(2, *SHAPE)
    z = torch.randn(2, *SHAPE, generator=generator(1))
    given = scheduler.step(out, t, x, variance_noise=z).prev_sample
    drawn = scheduler.step(out, t, x, generator=generator(1)).prev_sample
    listed = [generator(1), generator(2)]
    each = scheduler.step(out, t, x, generator=listed, return_dict=False)[0]
    assert torch.equal(given, drawn)
    assert torch.equal(each[0], scheduler.step(out, t, x, generator=[generator(1)] * 2)[0][0])
    still = scheduler.step(out, t, x, variance_noise=torch.zeros_like(z)).prev_sample
    low = (given - still).mean((-2, -1)).abs().max()
    assert low < 0.02 * (given - still).std()  # blue: no constant


# The unmodified training script


def test_diffusers_script_trains_a_network_that_samples_under_blue_noise():
    """Its loss is against white noise; with predicts=white a perfect network is a perfect one."""
    scheduler = NoiseScheduler(SHAPE, "blue-tv", "ddpm:schedule=linear", predicts="white")
    assert "num_train_timesteps" in inspect.signature(NoiseScheduler.__init__).parameters
    assert scheduler.config.num_train_timesteps == len(scheduler) == 1000
    x0, z = torch.rand(3, *SHAPE, generator=generator()), torch.randn(3, *SHAPE)
    scheduler.set_timesteps(8)
    x = scheduler.add_noise(x0, z, scheduler.timesteps[:1].expand(3)).double()
    for t, s in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        x = scheduler.step(z.double(), t, x, eta=0.0).prev_sample
        wanted = x0 if s is None else scheduler.add_noise(x0, z, s.expand(3))
        assert torch.allclose(x, wanted.double(), atol=1e-3)
    assert torch.equal(scheduler.target(x0, z, scheduler.timesteps[:1].expand(3)), z)


# On disk


@pytest.mark.parametrize(
    "given",
    [
        {"noise": "blue-tv:gamma.learn=true", "process": "iadb", "solver": "dpmpp-2m"},
        {"noise": {"name": "blue", "jitter": 0.01}, "process": "iadb", "grid": "edm:rho=5"},
        {"process": "ddpm:target=v", "time_input": "step"},
    ],
)
def test_what_is_saved_steps_as_what_was(tmp_path, given):
    scheduler = NoiseScheduler(SHAPE, **given)
    for p in scheduler.diffusion.parameters():
        p.data += 0.01  # learnt
    scheduler.save_pretrained(tmp_path)
    again = NoiseScheduler.from_pretrained(tmp_path)
    network = unet(scheduler.diffusion.outputs)
    with torch.no_grad():
        one, two = (
            trajectory(s, lambda x, t: network(x, t).sample, 4, torch.float32)
            for s in (scheduler, again)
        )
    assert torch.equal(one, two)
    assert dict(again.config)["shape"] == list(SHAPE)
    if (tmp_path / "noise.safetensors").exists():
        (tmp_path / "noise.safetensors").unlink()
        with pytest.raises(NoiseregError, match="what this noise has learnt"):
            NoiseScheduler.from_pretrained(tmp_path)


def test_a_pipeline_keeps_it(tmp_path):
    pipeline = DDPMPipeline(unet(2), NoiseScheduler(SHAPE, "blue-tv", "iadb"))
    pipeline.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, NoiseScheduler)
    assert again.scheduler.config.noise == "blue-tv"
    with pytest.raises(NotImplementedError, match="noisereg"):
        DDIMPipeline.from_pretrained(tmp_path)  # makes a DDIMScheduler of it: white noise


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"noise": "blu"}, "did you mean 'blue'"),
        ({"predicts": "white", "clip": "static"}, "expected predicts=target"),
        ({"clip": "statik"}, "did you mean 'static'"),
        ({"predicts": "epsilon"}, "predicts=epsilon: expected target or white"),
        ({"predicts": "white", "process": "iadb"}, "no signal is left"),
        ({"predicts": "white", "process": "ddpm:variance=learned"}, "one block"),
        ({"start": "blue"}, "expected white or coloured"),
        ({"time_input": "k"}, "expected index or step or unit"),
        ({"num_train_timesteps": 500}, "expected 1000"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(NoiseregError, match=said):
        NoiseScheduler(SHAPE, **given)


def test_a_step_that_cannot_be_is_refused():
    scheduler = NoiseScheduler(SHAPE, "blue-tv", "iadb", solver="dpmpp-2m")
    scheduler.set_timesteps(4)
    x, t = torch.zeros(2, *SHAPE), scheduler.timesteps[0]
    two = torch.zeros(2, 2, 8, 8)
    with pytest.raises(NoiseregError, match="none of the 4 that set_timesteps gave"):
        scheduler.step(two, 123, x)
    with pytest.raises(NoiseregError, match=r"expected \(2, 2, 8, 8\)"):
        scheduler.step(x, t, x)
    with pytest.raises(NoiseregError, match="solver dpmpp-2m has no η"):
        scheduler.step(two, t, x, eta=1.0)
    with pytest.raises(NoiseregError, match="not clipped"):
        scheduler.step(two, t, x, use_clipped_model_output=True)
    with pytest.raises(NoiseregError, match="a timestep is 1000"):
        scheduler.add_noise(x, x, torch.tensor([1000, 3]))
    with pytest.raises(NoiseregError, match="at least 1"):
        scheduler.set_timesteps(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_16_bits_is_the_step_rounded(dtype):
    """b² − a²b_s²/… of a step of a thousandth is 0 in bfloat16: no fresh noise."""
    scheduler = NoiseScheduler(SHAPE, process="ddpm", noise="white")
    scheduler.set_timesteps(1000)
    t = scheduler.timesteps[500]
    x, out, z = (torch.randn(2, *SHAPE, generator=generator(k)).to(dtype) for k in range(3))
    found = scheduler.step(out, t, x, eta=1.0, variance_noise=z).prev_sample
    wanted = scheduler.step(
        out.float(), t, x.float(), eta=1.0, variance_noise=z.float()
    ).prev_sample
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))


@pytest.mark.parametrize("noise", ["blue", "blue-tv"])
def test_no_scheduler_of_diffusers_is_made_of_ours_in_memory(noise):
    """A DDIMPipeline makes itself one of the scheduler it is given."""
    scheduler = NoiseScheduler(SHAPE, noise, "iadb")
    with pytest.raises(Exception, match="noisereg"):
        DDIMPipeline(unet(2), scheduler)
    again = NoiseScheduler.from_config(scheduler.config)
    assert again.config.noise == noise
    assert tuple(again.config.shape) == SHAPE


def test_a_loop_begun_again_starts_where_it_starts():
    """The first two timesteps of static noise are one number: the first colours the start."""
    scheduler = NoiseScheduler(SHAPE, "blue", "iadb")
    whole = trajectory(scheduler, wave, 4)
    x = torch.randn(3, *SHAPE, generator=generator(), dtype=torch.float64)
    for t in scheduler.timesteps[:3]:  # broken off
        x = scheduler.step(wave(x, t), t, x).prev_sample
    x = torch.randn(3, *SHAPE, generator=generator(), dtype=torch.float64)
    for t, wanted in zip(scheduler.timesteps, whole, strict=True):
        x = scheduler.step(wave(x, t), t, x).prev_sample
        torch.testing.assert_close(x, wanted)


def test_images_as_bytes_and_noise_of_another_shape_are_refused():
    scheduler = NoiseScheduler(SHAPE)
    x, z, t = torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE), torch.tensor([3, 4])
    for images, noise, said in (
        (x.byte(), z, "samples are uint8"),
        (x, z[:1], "the noise is"),
        (x.repeat(1, 3, 1, 1), z, "this diffusion is for"),
    ):
        for call in (scheduler.add_noise, scheduler.target):
            with pytest.raises(NoiseregError, match=said):
                call(images, noise, t)


def test_what_was_learnt_is_read_whole_or_not_at_all(tmp_path):
    NoiseScheduler(SHAPE, "blue-tv:gamma.learn=true", "iadb").save_pretrained(tmp_path)
    file = tmp_path / "noise.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(NoiseregError, match=r"noise.safetensors cannot be read"):
        NoiseScheduler.from_pretrained(tmp_path)


STEPPED = torch.zeros(2, 3, 8, 8)
WRONG_TYPES = {
    "shape": ("shape=8: expected one", lambda s: NoiseScheduler(shape=8)),
    "noise": ("a component is a int", lambda s: NoiseScheduler(shape=(3, 8, 8), noise=3)),
    "clip": ("a component is a bool", lambda s: NoiseScheduler(shape=(3, 8, 8), clip=True)),
    "scale": ("eps_scale='a' is a str", lambda s: NoiseScheduler(shape=(3, 8, 8), eps_scale="a")),
    "steps": ("num_inference_steps='5'", lambda s: s.set_timesteps("5")),
    "half a step": ("num_inference_steps=2.5", lambda s: s.set_timesteps(2.5)),
    "device": ("device=gpu: expected cpu", lambda s: s.set_timesteps(3, device="gpu")),
    "images": ("x is a ndarray", lambda s: s.add_noise(STEPPED.numpy(), STEPPED, 3)),
    "white noise": ("noise is a ndarray", lambda s: s.add_noise(STEPPED, STEPPED.numpy(), 3)),
    "a timestep's name": ("timesteps are a str", lambda s: s.add_noise(STEPPED, STEPPED, "3")),
    "timesteps": (
        r"timesteps are of shape \(3,\); expected \(2,\)",
        lambda s: s.add_noise(STEPPED, STEPPED, torch.tensor([3, 4, 5])),
    ),
    "an output": ("model_output is a ndarray", lambda s: s.step(STEPPED.numpy(), 999, STEPPED)),
    "a sample": ("x is a ndarray", lambda s: s.step(STEPPED, 999, STEPPED.numpy())),
    "bytes": ("samples are uint8", lambda s: s.step(STEPPED, 999, STEPPED.byte())),
    "all timesteps": ("timestep is a Tensor", lambda s: s.step(STEPPED, s.timesteps, STEPPED)),
    "a seed": ("generator=3 is a int", lambda s: s.step(STEPPED, 999, STEPPED, generator=3)),
    "η": ("eta='1' is a str", lambda s: s.step(STEPPED, 999, STEPPED, eta="1")),
    "noise of one": (
        r"the noise is \(1, 3, 8, 8\)",
        lambda s: s.step(STEPPED, 999, STEPPED, variance_noise=STEPPED[:1]),
    ),
}


@pytest.mark.parametrize(("said", "call"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_what_is_of_another_type_is_one_line(said, call):
    with pytest.raises(NoiseregError, match=said):
        call(NoiseScheduler(shape=(3, 8, 8)))


def test_a_number_may_be_a_tensor_of_one():
    scheduler, x = NoiseScheduler(shape=(3, 8, 8)), torch.ones(2, 3, 8, 8)
    scheduler.set_timesteps(torch.tensor(5))
    t = scheduler.timesteps[0]
    assert len(scheduler.timesteps) == 5
    stepped = [scheduler.step(x, t, x, eta=eta)[0] for eta in (0.0, torch.tensor(0.0))]
    assert torch.equal(*stepped)


def test_a_configuration_says_that_it_has_nothing_of_what_was_learnt(tmp_path):
    learnt = NoiseScheduler(shape=(3, 8, 8), noise="blue-tv:gamma.learn=true")
    assert learnt.diffusion.state_dict()
    with pytest.warns(UserWarning, match="nothing of what was learnt.*noise.gamma"):
        NoiseScheduler.from_config(learnt.config)
    learnt.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NoiseScheduler.from_pretrained(tmp_path)
        NoiseScheduler.from_config(NoiseScheduler(shape=(3, 8, 8), noise="blue-tv").config)
