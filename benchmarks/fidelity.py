"""PRDC and the Fréchet distance beside the packages ``prdc`` and ``torch-fidelity``.

    python benchmarks/fidelity.py [--sizes 5000,10000] [--threads 2] [--full] [--device cpu]

Pixel-like features of 2,048 numbers, k = 5. The numbers must be the same; memory is the peak
beyond the features. ``--full`` measures 20,000 and 50,000 instead, the latter without the package
(whose matrices would take 33 GiB): about ten minutes. With ``--device cuda`` noisereg's products
are made on the GPU, whose memory then is its, and the package's where it makes them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import (
    Contender,
    Gate,
    Goal,
    Result,
    Row,
    arguments,
    interleaved_calls,
    on,
    packages,
    peak_mib,
    ratio,
    reset_peak,
)

DIMENSION = 2048


def features(n: int, seed: int) -> Any:
    """A few directions carry most of the spread, as in Inception's space; (n, 2048) float32."""
    import numpy as np
    import torch

    basis = np.random.default_rng(0).standard_normal((32, DIMENSION), dtype=np.float32)
    rng = np.random.default_rng(seed)
    x = np.empty((n, DIMENSION), np.float32)
    for start in range(0, n, 1000):
        rows = x[start : start + 1000]
        rows[:] = rng.standard_normal((len(rows), 32), dtype=np.float32) @ basis
        rows += 0.5 * rng.standard_normal(rows.shape, dtype=np.float32) + np.float32(0.1 * seed)
    return torch.from_numpy(x)


def contend(name: str, n: int, threads: int, device: str) -> None:
    import torch

    from noisereg.metrics.prdc import manifolds, package_prdc

    gate = Gate()
    torch.set_num_threads(threads)
    real, fake = features(n, 1), features(n, 2)

    calls = {
        "prdc": lambda: package_prdc(real, fake, 5),
        "noisereg": lambda: manifolds(real, fake, 5, device).numbers(),
    }
    manifolds(real[:100], fake[:100], 5, device)
    package_prdc(real[:100], fake[:100], 5)  # libraries are loaded

    def segment() -> None:
        before = reset_peak()
        if on_gpu := device != "cpu" and name == "noisereg":
            torch.cuda.reset_peak_memory_stats()
        numbers = calls[name]()
        mib = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mib() - before
        gate.extra = {"numbers": numbers, "mib": mib}

    gate.repeat(segment)


def frechet(threads: int) -> dict[str, Any]:
    """Segments of the Fréchet distance by both, at 5,000 points."""
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from noisereg.metrics.fidelity import frechet_distance

    torch.set_num_threads(threads)
    real, fake = features(5000, 1), features(5000, 2)
    calls = {
        "torch-fidelity Fréchet": lambda: fid_statistics_to_metric(
            fid_features_to_statistics(real), fid_features_to_statistics(fake), verbose=False
        ),
        "noisereg Fréchet": lambda: frechet_distance(real, fake),
    }
    return interleaved_calls(calls, 1)


def measured(name: str, n: int, threads: int, device: str) -> dict[str, Any]:
    """One segment, the first, in a process that ends after it."""
    contender = Contender(Path(__file__), name, threads, ["--size", str(n), "--device", device])
    contender.answer()
    took = contender.segment()
    contender.end()
    return took


def main() -> None:
    given = arguments(__doc__, gpu=True, sizes="5000,10000", size=0, full=False)
    if given.contender:
        contend(given.contender, given.size, given.threads, given.device)
        return
    result = Result(
        f"fidelity{'-full' * given.full}{on(given)}",
        ("PRDC of many samples" if given.full else "PRDC and the Fréchet distance")
        + " on a GPU" * bool(on(given)),
        f"N points against N, of 2,048 float32 features, k = 5; beside {packages('prdc')}"
        + (
            "."
            if given.full
            else f" and {packages('torch-fidelity')}. The Fréchet distance is "
            "torch-fidelity's own function."
        ),
    )
    sizes = [20_000, 50_000] if given.full else [int(n) for n in given.sizes.split(",")]
    names, ratios, same = ("prdc", "noisereg"), {}, True
    memory: dict[int, list[str]] = {}
    measure = "wall" if on(given) else "cpu"
    for n in sizes:
        row = {}
        for name in names if n < 50_000 else names[1:]:
            took = row[name] = measured(name, n, given.threads, given.device)
            result.rows.append(
                Row(f"{n:,}", name, given.threads, "", 1, [took["wall"]], [took["cpu"]])
            )
        memory[n] = [f"{row[k]['mib']:,.0f}" if k in row else "—" for k in names]
        if n < 50_000:
            ratios[n] = row["noisereg"][measure] / row["prdc"][measure]
            ours, theirs = row["noisereg"]["numbers"], row["prdc"]["numbers"]
            # Shares of n points, and their mean over k, are equal integers when divided back.
            same &= all(round(n * 5 * ours[k]) == round(n * 5 * theirs[k]) for k in theirs)
    result.tables.append(
        {
            "title": "Memory beyond the features, MiB",
            "header": ["N", *names],
            "rows": [[f"{n:,}", *each] for n, each in memory.items()],
        }
    )
    said = ", ".join(f"{r:.2f} at {n:,}" for n, r in ratios.items())
    result.goals += [
        Goal(
            "PRDC in at most a third of the package's time",
            f"{said} (of its {'wall' if on(given) else 'CPU'} seconds, {given.threads} threads)",
            max(ratios.values()) <= 1 / 3,
            "most of the time is products of all pairs, which the package makes too",
        ),
        Goal("the same integers as the package", "equal" if same else "different", same),
    ]
    if given.full:
        mib = row["noisereg"]["mib"]
        result.goals.append(
            Goal(f"PRDC of {n:,} within 1 GiB", f"{mib:,.0f} MiB beyond the features", mib <= 1024)
        )
    else:
        found = frechet(given.threads)
        result.add("5,000", found, given.threads, "", 1)
        result.goals.append(
            Goal(
                "the Fréchet distance no slower than torch-fidelity's",
                f"{ratio(found, 'noisereg Fréchet', 'torch-fidelity Fréchet'):.2f} of its CPU "
                "seconds",
                ratio(found, "noisereg Fréchet", "torch-fidelity Fréchet") < 1.1,
                "it is the same function; the difference is the machine's",
            )
        )
    result.write()


if __name__ == "__main__":
    main()
