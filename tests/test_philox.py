"""Latents that are drawn where the network is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from noisereg import draws, philox
from noisereg.api import Noise
from noisereg.cli.main import run
from noisereg.draws import Stream
from noisereg.plugins.registry import registry
from noisereg.runs.build import build_parts
from noisereg.runs.config import validate
from noisereg.runs.feed import Feed
from noisereg.runs.runtime import Runtime

SHAPE = (1, 3, 5)
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0"),
]
ANSWERS = [
    "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "d16cfe09 94fdcceb 5001e420 24126ea1",
]


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def reference(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4×32-10 in Python's integers, as figure 2 of the paper draws it."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q % 2**32, (p >> 32) ^ d ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("given", "answer"), zip(KNOWN, ANSWERS, strict=True))
def test_the_words_are_the_known_answers(given: tuple[str, str], answer: str) -> None:
    """Of the authors' Random123 library."""
    counter, key = map(hexes, given)
    assert reference(counter, key) == hexes(answer)
    found = philox.words(torch.tensor(counter)[:, None], (key[0], key[1]))
    assert found[:, 0].tolist() == hexes(answer)


def test_the_words_of_many_counters_are_the_reference_s() -> None:
    source = np.random.default_rng(0)
    counters = source.integers(0, 2**32, (4, 300))
    found = philox.words(torch.from_numpy(counters), (7, 2**32 - 5))
    for k in range(300):
        assert found[:, k].tolist() == reference(counters[:, k].tolist(), [7, 2**32 - 5])


def drawn(indices, step=0, seed=3, stream=Stream.SAMPLE_LATENTS, shape=SHAPE):
    return draws.latents(Noise(), shape, seed, stream, indices, step, place="device")["z"]


@pytest.mark.parametrize("index", [0, 5, 2**32 - 1, 2**40 + 3])
def test_latents_are_the_stated_map_of_the_stated_counter(index: int) -> None:
    """Runs started before this was written resume with their draws. Computed in Python's integers
    and float64, they are the same but for a last place of float32.
    """
    seed, step, stream = 2**40 + 9, 11, Stream.TRAIN_LATENTS
    count = math.prod(SHAPE)
    expected: list[float] = []
    for block in range(-(-count // 4)):
        counter = [block, index % 2**32, step, (index >> 32 << 8) + stream]
        w = reference(counter, [seed % 2**32, seed >> 32])
        for first, second in (w[:2], w[2:]):
            radius = math.sqrt(-2 * math.log((first + 0.5) / 2**32))
            angle = 2 * math.pi * second / 2**32
            expected += [radius * math.cos(angle), radius * math.sin(angle)]
    wanted = np.array(expected[:count], dtype=np.float32)
    found = drawn([index], step, seed, stream).flatten().numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_max_ulp(found, wanted, 1)


def test_extreme_words_are_finite_and_as_large_as_stated() -> None:
    ends = torch.tensor([0, 2**32 - 1])
    first, second = (v.flatten() for v in torch.meshgrid(ends, ends, indexing="ij"))
    cosine, sine = philox.box_muller(first, second)
    assert torch.isfinite(cosine).all()
    assert torch.isfinite(sine).all()
    assert float(cosine.max()) == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_sample_i_is_bit_equal_whatever_the_batch_size(size: int) -> None:
    whole = drawn(range(64))
    parts = [drawn(range(start, min(start + size, 64))) for start in range(0, 64, size)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(drawn([63, 0]), whole[[63, 0]])


def test_what_is_computed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(range(9))
    for counters in (1, 8, 11):  # of four a sample: one sample, two, and two again
        monkeypatch.setattr(philox, "AT_ONCE", counters)
        assert torch.equal(drawn(range(9)), whole)
    assert drawn([]).shape == (0, *SHAPE)


def test_what_was_drawn_for_sampling_first_can_be_drawn_for_training() -> None:
    """The constants that are kept on a device are no inference tensors to those who train."""
    philox._constants.cache_clear()
    with torch.inference_mode():
        sampled = drawn(range(2))
    trained = drawn(range(2))
    assert torch.equal(sampled, trained)
    weight = torch.ones(1, requires_grad=True)
    (weight * trained).square().sum().backward()
    assert weight.grad is not None


def test_seeds_streams_indices_and_steps_all_differ() -> None:
    base = drawn([0])
    others = [
        *(drawn([1]), drawn([2**32]), drawn([0], step=1), drawn([0], seed=4)),
        *(drawn([0], seed=3 + 2**32), drawn([0], stream=Stream.TRAIN_LATENTS)),
    ]
    assert all(not torch.equal(base, other) for other in others)


def test_latents_are_standard_normal_and_independent() -> None:
    """At 1 − 1e-6 each: Kolmogorov–Smirnov on 400,000 numbers; the correlation, of the numbers and
    of their squares, between the four numbers of a block, between blocks, indices and steps.
    """
    z = torch.stack([drawn(range(500), step, shape=(400,)) for step in (0, 1)]).double().numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-6
    pairs = {
        **{f"lanes {a}{b}": (z[..., a::4], z[..., b::4]) for a in range(4) for b in range(a)},
        "blocks": (z[..., :-4], z[..., 4:]),
        "indices": (z[:, :-1], z[:, 1:]),
        "steps": (z[0], z[1]),
    }
    for name, (a, b) in pairs.items():
        for u, v, deviation in ((a, b, 1.0), (a**2 - 1, b**2 - 1, 2.0)):
            bound = stats.norm.isf(0.5e-6) * deviation / math.sqrt(u.size)
            assert abs(np.mean(u * v)) < bound, name


def test_latents_of_several_names_share_no_number() -> None:
    class Two(Noise):
        def latents(self, shape):
            return {"z": shape, "u": (2, *shape)}

    found = draws.latents(Two(), (3,), 0, Stream.TRAIN_LATENTS, range(4), 0, place="device")
    assert {name: tuple(v.shape) for name, v in found.items()} == {"z": (4, 3), "u": (4, 2, 3)}
    numbers = torch.cat([v.flatten() for v in found.values()])
    assert len(numbers.unique()) == 4 * 9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_the_cpu_does() -> None:
    """To one last place of float32, and all but a few to the last bit."""
    on_cpu = philox.normals(1, 0, range(64), 5, 4096).numpy()
    on_gpu = philox.normals(1, 0, range(64), 5, 4096, "cuda").cpu().numpy()
    np.testing.assert_array_max_ulp(on_gpu, on_cpu, 1)
    assert np.mean(on_gpu != on_cpu) < 1e-5


def test_training_and_sampling_draw_where_the_run_says(capsys, tmp_path, monkeypatch) -> None:
    """The record decides: a run goes on and is sampled with the draws that it was started with."""
    out = tmp_path / "R"
    small = ["--set", "train.checkpoint_every=2", "--set", "runtime.device=cpu", "--batch-size=4"]
    flags = ["--data", "swiss-roll:n=50", *small, "--denoiser", "dense:widths=8,embedding=8"]
    base = ["train", *flags, "--set", "sample.steps=2", "--set", "sample.num=4", "--out", str(out)]
    assert run([*base, "--steps", "2", "--set", "draws=device"]) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["draws"] == "device"
    capsys.readouterr()
    assert run([*base, "--steps", "4", "--set", "draws=host", "--resume"]) == 2
    assert "draws was 'device' and is now 'host'" in capsys.readouterr().err
    assert run([*base, "--steps", "4", "--resume"]) == 0
    import noisereg

    latents = noisereg.load(out).latents(3, seed=2)["z"]
    assert torch.equal(latents, drawn(range(3), seed=2, shape=(2,)))
    asked = []
    normals = philox.normals
    monkeypatch.setattr(philox, "normals", lambda *a: asked.append(a[:2]) or normals(*a))
    noisereg.load(out).sample(4, seed=5)
    assert (5, Stream.SAMPLE_LATENTS) in asked
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4


@pytest.mark.parametrize("place", ["host", "device"])
def test_each_step_of_training_sees_the_draws_of_its_law(place) -> None:
    config = validate({"data": "swiss-roll:n=50", "train": {"batch_size": 8}, "draws": place})
    runtime = Runtime(torch.device("cpu"))
    parts = build_parts(config, registry(), runtime)
    split = parts.dataset.split("train")
    feed = Feed(parts.config, split, (2,), False, parts.task, parts.noise, parts.process, runtime)
    expected = draws.latents(
        parts.noise, (2,), 0, Stream.TRAIN_LATENTS, range(8), 3, "cpu", place
    )["z"]
    assert torch.equal(feed.prepare(3, 0).latents["z"], expected)


def test_a_record_without_a_place_is_of_the_host() -> None:
    """Runs that were started before there was a choice."""
    assert validate({}).draws == "host"
