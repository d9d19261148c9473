"""The closed form of docs/theory.md, §6, against trained networks.

    python docs/results/temperature.py SWEEP… --out FILE.json
    python docs/results/temperature.py FILE.json                    the table of a stored result

Of each pair of runs that differ in their isotropy term alone, at 20 times: the slope of ε̂ of the
run with the term on ε̂ of the run without it, Σ⟨ε̂_term, ε̂⟩/Σ‖ε̂‖² over 1,000 training samples and
the same draws, beside the s_t that the run *without* the term predicts. Of the whitened form the
slopes along the noise's directions, their median and the mean of the weakest tenth, and P̂, the
power that the term sees. Student's 95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisereg.diffusion.law import add_noise
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Kind, registry
from noisereg.plugins.spec import Spec, flatten
from noisereg.regularizers.directions import Directions, Found
from noisereg.runs import rescaling
from noisereg.runs.build import build_dataset
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.run import Run
from noisereg.runs.runtime import Runtime
from noisereg.sweeps.grid import Sweep
from noisereg.tables.naming import text_of
from noisereg.tables.significance import half_width, mean

TIMES = 20
WHITENED = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Times of the whitened form, of which most happens where little noise is left."""
SAMPLES = 1000


def group(run: Run) -> str:
    """Equal for runs that differ in their isotropy term and their sampling alone."""
    values = run.config.dump()
    for key in ("reg", "sample", "runtime", "plugins", "log"):
        values.pop(key)
    return json.dumps(values, sort_keys=True)


def label(run: Run) -> str:
    """What a table's rows are of: data, noise and term, with the parameters that are not theirs by
    default.
    """
    (term,) = run.config.reg
    noise = ", ".join([run.config.noise.name, *unusual("noise", run.config.noise)])
    what = f"{run.config.data.name}, {noise}, one t a {run.config.train.times}"
    other = [text for text in unusual("regularizer", term) if not text.startswith("weight=")]
    return ", ".join([what, f"λ {term.params['weight']:g}", *other])


def unusual(kind: Kind, spec: Spec) -> list[str]:
    made = registry().find(kind, spec.name).component.params.model_construct()
    usual = flatten(made.model_dump(mode="json"))
    given = {k: v for k, v in flatten(spec.params).items() if v is not None}
    return [f"{k}={text_of(v)}" for k, v in given.items() if v != usual.get(k)]


def measure(plain: Run, other: Run) -> dict[str, list[float]]:
    """By time: the slope, and what ``plain`` predicts it to be; of the whitened form by direction,
    with P̂ before and after.
    """
    ours, theirs = plain.load(), other.load()
    data = build_dataset(plain.config, registry(), Runtime.start(RuntimeConfig()))
    split = data.split("train")
    x0 = split.batch(torch.arange(min(SAMPLES, len(split)))).x
    (term,) = other.config.reg
    scale = rescaling.build(Spec(name=term.name, params=term.params), ours, registry())
    assert scale is not None
    whitened = term.params["space"] == "whitened"
    directions = Directions(ours.noise, ours.shape, torch.device("cpu")) if whitened else None
    found: dict[str, list[float]] = {}
    source = torch.Generator().manual_seed(plain.config.seed)
    for time in WHITENED if directions else [k / TIMES for k in range(1, TIMES + 1)]:
        t = torch.full((len(x0),), time, dtype=torch.float64)
        eps = ours.noise.color(ours.noise.draw_latents(len(x0), ours.shape, source), t)
        x_t = add_noise(ours.process, x0, eps, t)
        with torch.inference_mode():
            base = ours.diffusion.predict(ours.denoiser, x_t, t).eps_hat.double()
            with_term = theirs.diffusion.predict(theirs.denoiser, x_t, t).eps_hat.double()
            predicted = scale(base, t)
        here = {"t": time}
        for name, made in (("slope", with_term), ("predicted", predicted)):
            if directions is None:
                here[name] = float((made * base).sum() / base.square().sum())
            else:
                here |= by_direction(directions.at(time), directions, made, base, name)
        for name, value in here.items():
            found.setdefault(name, []).append(value)
    return found


def by_direction(
    at: Found, directions: Directions, made: Tensor, base: Tensor, name: str
) -> dict[str, float]:
    """Slopes of ``made`` on ``base`` along the directions that the noise keeps, from the strongest
    to the weakest, and P̂ of both.
    """
    kept = at.values > 0
    a, b = ((directions.parts(eps) @ at.vectors)[..., kept] for eps in (made, base))
    slopes = (a * b).sum((0, 1)) / b.square().sum((0, 1))
    power, before = (
        float((at.values[kept] * x.square().sum(1)).sum(1).mean() / at.count) for x in (a, b)
    )
    return {
        name: float(slopes.median()),
        f"{name}, weakest": float(slopes[-(len(slopes) // 10) :].mean()),
        f"power, {name}": power,
        "power before": before,
    }


def of_sweeps(paths: list[Path], weight: float | None) -> dict[str, Any]:
    """By group and term, of one λ or all: each seed's curves."""
    runs = []
    for sweep in map(Sweep.open, paths):
        runs += [
            Run.open(sweep.path_of(cell), registry())
            for cell in sweep.cells
            if sweep.state(cell) == "finished"
        ]
    plain = {group(r): r for r in runs if not r.config.reg}
    found: dict[str, Any] = {}
    for run in runs:
        if run.config.reg and weight not in (None, run.config.reg[0].params["weight"]):
            continue
        if run.config.reg and group(run) in plain:
            name, seed = label(run), str(run.config.seed)
            steps = run.config.train.steps
            place = found.setdefault(name, {"steps": steps, "seeds": {}})
            if seed in place["seeds"]:
                raise NoiseregError(f"{name}: two runs of seed {seed}, which differ in more")
            place["seeds"][seed] = measure(plain[group(run)], run)
    if not found:
        raise NoiseregError(
            f"{', '.join(map(str, paths))}: no two finished runs that differ in isotropy alone"
        )
    return found


def interval(values: list[float]) -> str:
    half = half_width(values)
    return f"{mean(values):.4f}" + (f" ± {half:.4f}" if half is not None else "")


def table(found: dict[str, Any]) -> str:
    """Markdown, every second time; of ten bins their middles, for at an edge s jumps."""
    lines = []
    for name, result in found.items():
        seeds = list(result["seeds"].values())
        lines += [f"{name}, {result['steps']:,} steps, {len(seeds)} seeds", ""]
        lines += (whitened_rows if "power before" in seeds[0] else rows)(seeds, name)
        lines.append("")
    return "\n".join(lines)


def rows(seeds: list[dict[str, list[float]]], name: str) -> list[str]:
    lines = ["| t | slope of ε̂ | predicted | slope − predicted |", "|---|---:|---:|---:|"]
    for k in range(0 if "timestep-bin" in name else 1, TIMES, 2):
        slope, predicted = ([s[key][k] for s in seeds] for key in ("slope", "predicted"))
        off = [a - b for a, b in zip(slope, predicted, strict=True)]
        lines.append(
            f"| {seeds[0]['t'][k]:.2g} | {interval(slope)} | {interval(predicted)} "
            f"| {interval(off)} |"
        )
    return lines


def whitened_rows(seeds: list[dict[str, list[float]]], name: str) -> list[str]:
    shown = {
        "slope": "slope of the median direction",
        "predicted": "predicted",
        "slope, weakest": "of the weakest tenth",
        "predicted, weakest": "predicted",
        "power before": "P̂ without the term",
        "power, slope": "with it",
        "power, predicted": "predicted",
    }
    lines = [f"| t | {' | '.join(shown.values())} |", f"|---|{'---:|' * len(shown)}"]
    for k, time in enumerate(seeds[0]["t"]):
        cells = " | ".join(interval([s[key][k] for s in seeds]) for key in shown)
        lines.append(f"| {time:.2g} | {cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--weight", type=float, help="of the runs with the term; all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    stored = [path for path in given.paths if path.suffix == ".json"]
    if stored and len(given.paths) > 1:
        parser.error(f"{stored[0]} is a result, which is shown alone")
    found = json.loads(stored[0].read_text()) if stored else of_sweeps(given.paths, given.weight)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
