"""DDPM's schedule in diffusers' words."""

from __future__ import annotations

from typing import Any

from noisereg.api import Process
from noisereg.processes import DDPMParams
from noisereg.processes.ddpm import DDPM

PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCE = {"beta-tilde": "fixed_small", "beta": "fixed_large", "learned": "learned_range"}


def scheduler_config(process: Process) -> dict[str, Any] | None:
    """``DDPMScheduler``'s arguments for a process, or None where it has none: only for DDPM."""
    if not isinstance(process, DDPM):
        return None
    params = process.params
    assert isinstance(params, DDPMParams)
    scale = 1000 / params.T
    return {
        "num_train_timesteps": params.T,
        "beta_schedule": "linear" if params.schedule == "linear" else "squaredcos_cap_v2",
        "beta_start": 1e-4 * scale,
        "beta_end": min(0.02 * scale, 0.999),
        "prediction_type": PREDICTION[process.prediction],
        "variance_type": VARIANCE[params.variance],
        "rescale_betas_zero_snr": bool(params.zero_terminal_snr),
        # Ours neither clips x̂0 nor leaves out t = 1.
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
