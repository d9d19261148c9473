"""Writes docs/composition.md: which features go together, found out by doing it.

    python docs/make_composition.py

Every feature is put with each of {ddpm, iadb} × {white, blue-tv} × {none, isotropy}, and features
with one another on ddpm, blue-tv and isotropy, and trained for two steps on digits (or a small set
of latents) with a tiny network; then two samples are drawn in two steps, and the feature itself is
used where it is something else than training (a bound, an export). What raises noisereg's own
error is refused, and its line is the reason in the table; any other exception, and any value that
is not finite, stops the script.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import noisereg
from noisereg.errors import NoiseregError
from noisereg.exchange.to_diffusers import pipeline_of
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import flatten
from noisereg.runs import conditions
from noisereg.runs.build import Parts, build_parts
from noisereg.runs.config import layer, validate
from noisereg.runs.feed import Feed
from noisereg.runs.model import RunModel
from noisereg.runs.optimizer import learners, make_optimizer
from noisereg.runs.pretrained import initialise
from noisereg.runs.run import draw
from noisereg.runs.runtime import Runtime

PAGE = Path(__file__).parent / "composition.md"
PROCESSES, NOISES, REGULARIZERS = ("ddpm", "iadb"), ("white", "blue-tv"), ("none", "isotropy")
STEPS, BATCH, SAMPLES = 2, 8, 2
BASE: dict[str, Any] = {
    "denoiser": "mlp:width=8,blocks=1",
    "train": {"steps": STEPS, "batch_size": BATCH},
    "sample": {"steps": 2},
    "runtime": {"device": "cpu"},
}
NLL = "nll:by={},num=2,steps=2,ode_steps=2,grid=uniform"
UNET = {"denoiser": "unet:channels=4,4,layers=1,attention=[],dropout=0.1"}


@dataclass(frozen=True)
class Feature:
    """A row: what a user types, and what of the configuration it changes."""

    name: str
    typed: str
    sections: dict[str, Any] = field(default_factory=dict)
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parameters of whatever process, noise or regularizer it is put with."""
    use: tuple[Callable[[Parts], None], ...] = ()
    """What to do with the trained parts."""
    short: str = ""
    """The name in the table of pairs; empty: not in it."""

    @property
    def touches(self) -> set[str]:
        """The keys of the configuration that it sets, dotted."""
        return {*flatten(self.sections), *flatten(self.params)}

    def with_(self, other: Feature) -> Feature | None:
        """Both at once; None where they set one key."""
        both = self.touches | other.touches
        if self.touches & other.touches or (
            "noise" in both and any(key.startswith("noise.") for key in both)
        ):
            return None
        params = {
            section: {**self.params.get(section, {}), **other.params.get(section, {})}
            for section in self.params | other.params
        }
        return Feature(
            "", "", layer(self.sections, other.sections), params, (*self.use, *other.use)
        )


def measured(name: str) -> Callable[[Parts], None]:
    """``eval --metric NAME`` of the trained parts, for a metric of the network itself."""

    def use(parts: Parts) -> None:
        metric = noisereg.build("metric", name, shape=parts.shape)
        parts.objective.eval()
        model = RunModel(parts, parts.config.sample, registry(), 0)
        assert all(
            math.isfinite(value) for value in metric.of_model(model, parts.dataset).values()
        )

    return use


def exported(parts: Parts) -> None:
    pipeline = pipeline_of(parts)
    pipeline.set_progress_bar_config(disable=True)
    assert np.isfinite(
        pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
    ).all()


def features(folder: Path) -> list[Feature]:
    """``folder`` holds a pretrained network and a file of latents."""
    pretrained, latents = folder / "network", folder / "latents.npz"
    return [
        Feature("nothing else", ""),
        Feature(
            "learned variance",
            "`--process ddpm:variance=learned`",
            params={"process": {"variance": "learned"}},
            short="learned variance",
        ),
        Feature(
            "bits/dim by the bound",
            "`eval --metric nll:by=bound`",
            use=(measured(NLL.format("bound")),),
            short="bound",
        ),
        Feature(
            "bits/dim by the flow",
            "`eval --metric nll:by=ode`",
            use=(measured(NLL.format("ode")),),
            short="flow",
        ),
        Feature(
            "the power of ε̂ over t",
            "`eval --metric isotropy`",
            use=(measured("isotropy:num=2,times=2"),),
            short="power",
        ),
        Feature(
            "Heun's step", "`sample --solver heun`", {"sample": {"solver": "heun"}}, short="Heun"
        ),
        Feature(
            "grid uniform in log(a/b)", "`sample --grid logsnr`", {"sample": {"grid": "logsnr"}}
        ),
        Feature("EDM's grid", "`sample --grid edm`", {"sample": {"grid": "edm"}}),
        Feature("deterministic steps", "`sample --eta 0`", {"sample": {"eta": 0.0}}),
        Feature("stochastic steps", "`sample --eta 1`", {"sample": {"eta": 1.0}}, short="η 1"),
        Feature("greedy pairing", "`--pairing greedy`", {"pairing": "greedy"}),
        Feature("optimal pairing", "`--pairing optimal`", {"pairing": "optimal"}, short="pairing"),
        Feature(
            "… with its noised cost",
            "`--pairing optimal:cost=noised`",
            {"pairing": "optimal:cost=noised"},
        ),
        Feature(
            "γ that learns",
            "`--noise blue-tv:gamma.learn=true`",
            params={"noise": {"gamma": {"learn": True}}},
            short="learned γ",
        ),
        Feature(
            "super-resolution",
            "`--task superres:factor=2`",
            {"task": "superres:factor=2"},
            short="superres",
        ),
        Feature(
            "labels, with guidance",
            "`--task class`",
            {"task": "class", "sample": {"guidance": 2.0}},
            short="labels",
        ),
        Feature(
            "a schedule of λ",
            "`--reg isotropy:schedule=cosine`",
            params={"reg": {"schedule": "cosine"}},
            short="λ schedule",
        ),
        Feature(
            "whitened isotropy",
            "`--reg isotropy:space=whitened`",
            params={"reg": {"space": "whitened"}},
        ),
        Feature(
            "min-SNR weights",
            "`--process …:weighting=min-snr`",
            params={"process": {"weighting": "min-snr"}},
            short="min-SNR",
        ),
        Feature(
            "P2 weights", "`--process …:weighting=p2`", params={"process": {"weighting": "p2"}}
        ),
        Feature(
            "antithetic times", "`--set train.antithetic=true`", {"train": {"antithetic": True}}
        ),
        Feature("U-Net of one's own", "`--denoiser unet:channels=…`", UNET),
        Feature(
            "export to diffusers", "`export --to diffusers`", UNET, use=(exported,), short="export"
        ),
        Feature(
            "start from diffusers",
            "`--init DIR`",
            {"init": str(pretrained), "denoiser": "auto"},
            short="init",
        ),
        Feature("static blue noise", "`--noise blue`", {"noise": "blue"}, short="static blue"),
        Feature(
            "transport by L",
            "`--noise blue-tv:transport=whiten`",
            params={"noise": {"transport": "whiten"}},
            short="whiten",
        ),
        Feature(
            "latents as data",
            "`--data latents:path=…`",
            {"data": f"latents:path={latents}"},
            short="latents",
        ),
    ]


@contextmanager
def material() -> Iterator[Path]:
    """A pretrained network and a file of latents, as small as they get."""
    from diffusers import UNet2DModel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(4, 4),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            add_attention=False,
        )
        network.save_pretrained(folder / "network")
        np.savez(
            folder / "latents.npz",
            latents=np.random.default_rng(0).normal(size=(20, 1, 8, 8)),
            labels=np.arange(20) % 2,
        )
        yield folder


class Bench:
    """Tries combinations; the data are read once."""

    def __init__(self) -> None:
        self.registry = registry()
        self.runtime = Runtime.start(validate(BASE).runtime)
        self.datasets: dict[str, Any] = {}

    def attempt(self, feature: Feature, process: str, noise: str, reg: str) -> str | None:
        """The empty string where it works, the reason where it is refused, None where there is
        nothing to try.
        """
        if "reg" in feature.params and reg == "none":
            return None
        chosen: dict[str, Any] = {"process": {"name": process}, "noise": {"name": noise}}
        for section, params in feature.params.items():
            if section != "reg":
                chosen[section] |= params
        chosen["reg"] = [] if reg == "none" else [{"name": reg, **feature.params.get("reg", {})}]
        try:
            parts = self._trained(layer(BASE, chosen, feature.sections))
            for use in feature.use:
                use(parts)
        except NoiseregError as error:
            return str(error)
        return ""

    def _trained(self, sections: dict[str, Any]) -> Parts:
        """Parts after a few steps; their samples are checked to be finite."""
        config = validate(sections)
        key = config.data.label()
        if key not in self.datasets:
            self.datasets[key] = noisereg.build("dataset", sections.get("data", "digits"))
        parts = build_parts(config, self.registry, self.runtime, dataset=self.datasets[key])
        initialise(parts)
        split = parts.dataset.split("train")  # type: ignore[union-attr]
        feed = Feed(
            parts.config,
            split,
            parts.shape,
            False,
            parts.task,
            parts.noise,
            parts.process,
            self.runtime,
        )
        optimizer = make_optimizer(parts.config, parts)
        parts.objective.train()
        for step in range(STEPS):
            batch = feed.prepare(step, 0)
            loss, _ = parts.objective(batch.x0, batch.latents, batch.t, batch.cond, step)
            assert torch.isfinite(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            for component in learners(parts):
                component.after_step()
        indices = range(SAMPLES)
        model = RunModel(parts, parts.config.sample, self.registry, 0)
        cond = conditions.heldout(parts.task, parts.dataset, SAMPLES).of(indices)  # type: ignore[arg-type]
        assert torch.isfinite(draw(model, indices, cond)).all()
        return parts


class Reasons:
    """Refusals, numbered as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[str, int] = {}

    def cell(self, refused: str | None) -> str:
        if not refused:
            return "–" if refused is None else "✓"
        return f"({self.numbers.setdefault(refused.replace(str(self.folder), '…'), len(self.numbers) + 1)})"


def first_table(bench: Bench, rows: list[Feature], reasons: Reasons) -> list[str]:
    columns = list(itertools.product(PROCESSES, NOISES, REGULARIZERS))
    head = [" · ".join([p, n, *([r] if r != "none" else [])]) for p, n, r in columns]
    lines = [f"| feature | typed | {' | '.join(head)} |", f"|---|---|{'---|' * len(columns)}"]
    for feature in rows:
        cells = [reasons.cell(bench.attempt(feature, *column)) for column in columns]
        lines.append(f"| {' | '.join([feature.name, feature.typed, *cells])} |")
    return lines


def second_table(bench: Bench, rows: list[Feature], reasons: Reasons) -> list[str]:
    lines = [f"| | {' | '.join(f.short for f in rows[1:])} |", f"|---|{'---|' * (len(rows) - 1)}"]
    for i, feature in enumerate(rows[:-1]):
        cells = [""] * i
        for other in rows[i + 1 :]:
            both = feature.with_(other)
            cells.append(
                reasons.cell(bench.attempt(both, "ddpm", "blue-tv", "isotropy") if both else None)
            )
        lines.append(f"| {' | '.join([feature.short, *cells])} |")
    return lines


def page() -> str:
    """The whole page."""
    bench = Bench()
    with material() as folder:
        rows, reasons = features(folder), Reasons(folder)
        first = first_table(bench, rows, reasons)
        second = second_table(bench, [feature for feature in rows if feature.short], reasons)
    return "\n".join(
        [
            "# What goes with what",
            "",
            "<!-- made by docs/make_composition.py -->",
            "",
            f"✓ was trained for {STEPS} steps and sampled (and used, where a feature is used "
            "after training); a number in "
            "parentheses was refused with one line, which stands below; – has nothing to try: a "
            "parameter of a regularizer "
            "that is not there, or two values of one key. `python docs/make_composition.py` makes "
            "the page, and a test makes "
            "it again.",
            "",
            "## Each feature with process, noise and regularizer",
            "",
            *first,
            "",
            "## Features with one another",
            "",
            "On ddpm, blue-tv and isotropy.",
            "",
            *second,
            "",
            "## Why not",
            "",
            *(f"{number}. {reason}" for reason, number in reasons.numbers.items()),
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only wait for each other on networks so small
    PAGE.write_text(page(), encoding="utf-8")
