"""Every draw is a function of (seed, stream, index, step) alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from noisereg import draws
from noisereg.api import Noise, Process
from noisereg.draws import Order, Stream
from noisereg.plugins.registry import registry
from noisereg.runs.build import build_parts
from noisereg.runs.config import validate
from noisereg.runs.feed import Feed
from noisereg.runs.runtime import Runtime

SHAPE = (1, 8, 8)


def drawn(indices, step=0, seed=3):
    return draws.latents(Noise(), SHAPE, seed, Stream.SAMPLE_LATENTS, indices, step)["z"]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_sample_i_is_bit_equal_whatever_the_batch_size(size):
    whole = drawn(range(64))
    parts = [drawn(range(start, min(start + size, 64))) for start in range(0, 64, size)]
    assert torch.equal(torch.cat(parts), whole)


def test_latents_are_those_of_each_sample_s_own_generator():
    """Runs started before this was written resume with their draws."""
    for row, index in zip(drawn([5, 2, 2**40], step=7), [5, 2, 2**40], strict=True):
        source = draws.generator(3, Stream.SAMPLE_LATENTS, index, 7)
        expected = source.standard_normal(SHAPE, dtype=np.float32)
        assert torch.equal(row, torch.from_numpy(expected))


def test_seeds_streams_indices_and_steps_all_differ():
    base = drawn([0])
    others = [drawn([1]), drawn([0], step=1), drawn([0], seed=4)]
    others.append(draws.latents(Noise(), SHAPE, 3, Stream.TRAIN_LATENTS, [0], 0)["z"])
    assert all(not torch.equal(base, other) for other in others)


def test_latents_are_standard_normal_and_independent_between_neighbours():
    """At 1 − 1e-6 each: Kolmogorov–Smirnov on 256,000 numbers, and the correlation of neighbouring
    samples.
    """
    z = drawn(range(4000)).flatten(1).double().numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-6
    correlation = np.mean(z[:-1] * z[1:])
    assert abs(correlation) < stats.norm.isf(0.5e-6) / np.sqrt(z[1:].size)


class Ten(Process):
    T = 10


def test_times_are_on_the_grid_and_uniform():
    t = torch.cat([draws.times(0, step, 100, Ten()) for step in range(200)])
    k = (t * 10).round()
    assert torch.allclose(k / 10, t, atol=1e-15)
    counts = torch.bincount(k.long(), minlength=11)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


def test_antithetic_times_come_in_pairs():
    k = (draws.times(1, 5, 64, Process(), antithetic=True) * 1000).round().reshape(-1, 2)
    assert torch.equal(k.sum(1), torch.full((32,), 1001.0, dtype=torch.float64))


def test_one_time_for_a_whole_batch():
    """Of every size, so that micro-batches and ranks share it; over steps it has the same law."""
    t = [draws.times(1, step, 64, Ten(), law="batch") for step in range(2000)]
    assert all(len(batch) == 64 and len(batch.unique()) == 1 for batch in t)
    assert t[7][0] == draws.times(1, 7, 8, Ten(), law="batch")[0]
    counts = torch.bincount((torch.stack(t)[:, 0] * 10).round().long(), minlength=11)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("law", ["sample", "batch"])
def test_micro_batches_of_a_step_share_its_law_of_times(law):
    config = validate({"data": "swiss-roll:n=50", "train": {"batch_size": 8, "accumulate": 2}})
    config = config.model_copy(update={"train": config.train.model_copy(update={"times": law})})
    runtime = Runtime(torch.device("cpu"))
    parts = build_parts(config, registry(), runtime)
    split = parts.dataset.split("train")
    feed = Feed(parts.config, split, (2,), False, parts.task, parts.noise, parts.process, runtime)
    t = torch.cat([feed.prepare(3, micro).t for micro in range(2)])
    assert torch.equal(t, draws.times(0, 3, 8, parts.process, law=law))
    assert len(t.unique()) == (1 if law == "batch" else 8)
    assert (feed.prepare(3, 0).t.stride(0) == 0) == (law == "batch")  # networks embed it once


@pytest.mark.parametrize("ahead", [True, False])
def test_a_feed_prepares_no_more_than_one_micro_batch_ahead(ahead):
    """Whatever the number of steps: a list of a run's steps would take gigabytes."""
    config = validate({"data": "swiss-roll:n=50", "train": {"batch_size": 8, "accumulate": 2}})
    runtime = Runtime(torch.device("cpu"))
    parts = build_parts(config, registry(), runtime)
    split = parts.dataset.split("train")
    feed = Feed(parts.config, split, (2,), False, parts.task, parts.noise, parts.process, runtime)
    assert feed.ahead is False  # points are in memory, and there is no GPU to draw beside
    feed.ahead = ahead
    prepared, prepare = [], feed.prepare
    feed.prepare = lambda *place: prepared.append(place) or prepare(*place)
    micro_batches = feed.run(3, 10**15)
    taken = [next(micro_batches) for _ in range(3)]
    micro_batches.close()
    assert prepared[:3] == [(3, 0), (3, 1), (4, 0)]
    assert len(prepared) == (4 if ahead else 3)
    assert torch.equal(taken[2].x0, prepare(4, 0).x0)


def test_order_visits_everything_once_an_epoch_and_can_be_entered_anywhere():
    order = Order(0, 10)
    whole = order(0, 30)
    for epoch in range(3):
        assert sorted(whole[epoch * 10 : epoch * 10 + 10].tolist()) == list(range(10))
    assert not torch.equal(whole[:10], whole[10:20])
    assert torch.equal(Order(0, 10)(7, 23), whole[7:23])
