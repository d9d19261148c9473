"""Time and memory of PRDC in two blocked passes, against the ``prdc`` package where its matrices
fit.

    python benchmarks/prdc.py [--sizes 2000,5000,20000] [--dimension 2048] [--package-up-to 10000]
    [--threads 2]
                              [--device cpu|cuda] [--json FILE]

N points against N, k = 5, in float32 and in uint8. Each row runs in a process of its own; its
memory is the peak beyond what the features themselves take. Where both run, their numbers are
compared. The last lines give the package's peak by its formula (14 bytes a pair in float32: a
matrix of distances, argpartition's int64 indices of it, working space) and our time at 50,000.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def peak_bytes(device: str) -> int:
    """The most in use since the process began, or since :func:`reset_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def reset_peak(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def measure(
    backend: str, n: int, dimension: int, dtype: str, device: str, threads: int
) -> dict[str, Any]:
    """One row, in this process."""
    import numpy as np
    import torch

    from noisereg.metrics.prdc import manifolds, package_prdc

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)

    def features(shift: float) -> torch.Tensor:
        """Pixel-like features: a few directions carry most of the spread, as in Inception's
        space.
        """
        x = np.empty((n, dimension), np.float32)
        basis = rng.standard_normal((32, dimension), dtype=np.float32)
        for start in range(0, n, 1000):
            rows = min(1000, n - start)
            low = rng.standard_normal((rows, 32), dtype=np.float32) @ basis
            x[start : start + rows] = (
                low + 0.5 * rng.standard_normal((rows, dimension), dtype=np.float32) + shift
            )
        if dtype == "uint8":
            return torch.from_numpy(np.clip(x * 10 + 128, 0, 255).astype(np.uint8))
        return torch.from_numpy(x)

    real, fake = features(0.0), features(0.1)
    manifolds(real[:100], fake[:100], 5, device)  # libraries are loaded
    if device == "cuda":
        torch.cuda.synchronize()
    reset_peak(device)
    before, began = peak_bytes(device), time.perf_counter()
    numbers = (
        package_prdc(real, fake, 5)
        if backend == "package"
        else manifolds(real, fake, 5, device).numbers()
    )
    seconds = time.perf_counter() - began
    return {
        "backend": backend,
        "n": n,
        "dtype": dtype,
        "seconds": round(seconds, 1),
        "peak_gib": round((peak_bytes(device) - before) / 2**30, 3),
        "numbers": numbers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="2000,5000,20000")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--package-up-to", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--row", nargs=3, metavar=("BACKEND", "N", "DTYPE"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.row:
        backend, n, dtype = options.row
        print(
            json.dumps(
                measure(backend, int(n), options.dimension, dtype, options.device, options.threads)
            )
        )
        return
    rows = []
    for dtype in ("float32", "uint8"):
        for n in map(int, options.sizes.split(",")):
            for backend in ("blocked", "package"):
                if backend == "package" and n > options.package_up_to:
                    continue
                # -P: this file must not be taken for the package of its name
                command = [sys.executable, "-P", __file__, "--row", backend, str(n), dtype]
                command += ["--dimension", str(options.dimension), "--device", options.device]
                command += ["--threads", str(options.threads)]
                environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    print(f"{backend} at {n:,} in {dtype} failed: {done.stderr.splitlines()[-1]}")
                    continue
                row = json.loads(done.stdout)
                twin = next((r for r in rows if (r["n"], r["dtype"]) == (n, dtype)), None)
                same = ""
                if twin:
                    gap = max(abs(row["numbers"][k] - twin["numbers"][k]) for k in row["numbers"])
                    same = f"  largest difference from blocked: {gap:.1g}"
                    row["largest_difference"] = gap
                rows.append(row)
                print(
                    f"{dtype:<8} {n:>7,} × {options.dimension:,}  {backend:<8} "
                    f"{row['seconds']:>7.1f} s  "
                    f"{row['peak_gib']:>6.2f} GiB{same}",
                    flush=True,
                )
    import torch

    from noisereg.metrics.prdc import package_memory

    formula = {n: package_memory(n, n, torch.float32) / 2**30 for n in (20_000, 50_000)}
    for n, needed in formula.items():
        print(f"float32  {n:>7,}: the package would take {needed:.1f} GiB (formula)")
    flops = 4 * 50_000**2 * options.dimension
    timed = [r for r in rows if r["backend"] == "blocked" and r["dtype"] == "float32"]
    if timed:
        largest = max(timed, key=lambda r: r["n"])
        seconds = largest["seconds"] * (50_000 / largest["n"]) ** 2
        print(
            f"float32   50,000: blocked, by formula: {flops:.2g} multiply-adds, "
            f"{seconds / 60:.0f} min at the rate "
            f"of {largest['n']:,}, whose memory was {largest['peak_gib']:.2f} GiB"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "package_gib": formula}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
