"""Digests of four short runs, for :mod:`tests.runs.test_digests`; ``python tests/runs/digests.py``
writes them anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import noisereg

FILE = Path(__file__).with_name("digests.json")
CASES = [(process, noise) for process in ("ddpm", "iadb") for noise in ("white", "blue-tv")]


def environment() -> str:
    """What the last bit of a float may depend on."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"


def digest(process: str, noise: str, folder: Path) -> dict[str, Any]:
    """SHA-256 of the weights after 20 steps and of 16 samples of 10 steps, and the last loss."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = noisereg.train(
            process=process,
            noise=noise,
            reg=["isotropy:weight=0.1"],
            train={"steps": 20, "batch_size": 32, "log_every": 20, "checkpoint_every": 20},
            runtime={"device": "cpu"},
            out=folder,
        )
        samples = run.sample(16, steps=10)
    finally:
        torch.set_num_threads(threads)
    weights = (folder / "checkpoints" / "000020" / "model.safetensors").read_bytes()
    metrics = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "weights": hashlib.sha256(weights).hexdigest(),
        "samples": hashlib.sha256(samples.numpy().tobytes()).hexdigest(),
        "loss": metrics["loss"],
        "isotropy": metrics["isotropy"],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {f"{p} {n}": digest(p, n, Path(folder) / f"{p}-{n}") for p, n in CASES}
    known = json.loads(FILE.read_text()) if FILE.is_file() else {}
    FILE.write_text(json.dumps({**known, environment(): found}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
