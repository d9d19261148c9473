"""Noises: their parameters, and the hook through which they are registered. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from noisereg.api import Component, ContentPath, Params, hookimpl
from noisereg.plugins.validation import check_used

GAMMA_DEFAULTS: dict[str, dict[str, float]] = {
    "linear": {},
    "sigmoid": {"s": 0.0, "e": 3.0, "tau": 0.2},
    "cosine": {"s": 0.0, "e": 1.0, "tau": 1.0},
}
LEARNED_START = {"s": -0.01, "e": 3.0, "tau": 1.0}
LEARNED_BOX = ((-3.0, -0.01), (0.01, 3.0), (0.01, 10.0))
"""Where s, e and τ may go when they learn: BNDM's clamps."""
MAX_RATE = 10.0
MEAN_RANGE = (0.3, 0.9)
"""Limits on max dγ/dt and ∫γ dt, without which the loss drives a learned γ into a corner of the
box.
"""


class Gamma(Params):
    """γ(t), from 0 (the static colour, at the data) to 1 (white, at the noise); BNDM (2402.04930),
    "Time-varying noise".

    ``s``, ``e`` and ``tau`` that are left out take the form's own values; ``linear`` has none.
    """

    form: Literal["linear", "sigmoid", "cosine"] = Field("sigmoid", description="shape of γ(t)")
    s: float | None = Field(
        None, allow_inf_nan=False, description="start of the curve that is used (0)"
    )
    e: float | None = Field(
        None, allow_inf_nan=False, description="end of it (sigmoid 3, cosine 1)"
    )
    tau: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="its softness (sigmoid 0.2, cosine 1)"
    )
    learn: bool = Field(False, description="train s, e and tau (sigmoid), from -0.01, 3 and 1")
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="their learning rate")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """The form's own s, e and tau where they are not given, so that a written-out
        configuration is complete.
        """
        if not isinstance(data, Mapping):
            return data
        own = GAMMA_DEFAULTS.get(str(data.get("form", "sigmoid")), {})
        if own and str(data.get("learn", False)).lower() in ("true", "1", "yes", "on", "y", "t"):
            own = LEARNED_START
        return {**own, **{k: v for k, v in data.items() if v is not None or k not in own}}

    @model_validator(mode="after")
    def _check(self) -> Gamma:
        check_used(self, "learn", True, "lr")
        if self.learn:
            self._check_start()
        if self.form == "linear":
            given = [k for k in ("s", "e", "tau") if getattr(self, k) is not None]
            if given:
                raise ValueError(
                    f"linear γ = t has no {', '.join(given)}; leave out or take form=sigmoid"
                )
            return self
        s, e, tau = self.curve
        if not s < e:
            raise ValueError(f"γ runs from s to e and needs s < e, not s={s:g}, e={e:g}")
        if self.form == "cosine":
            if s < 0 or e > 1:
                raise ValueError(
                    "cosine γ needs 0 ≤ s < e ≤ 1 (it is complex or turns back elsewhere), not "
                    f"{s:g}, {e:g}"
                )
            if e == 1 and tau < 0.5:
                raise ValueError(
                    "cosine γ with e=1 needs tau ≥ 0.5 (below, dγ/dt is infinite at t = 1), not "
                    f"{tau:g}"
                )
        elif _sigmoid_rise(s, e, tau) < 1e-9:
            raise ValueError(
                f"the logistic function is flat between s/tau = {s / tau:g} and e/tau = "
                f"{e / tau:g}: raise tau"
            )
        return self

    def _check_start(self) -> None:
        if self.form != "sigmoid":
            raise ValueError(
                f"learn=true is for the sigmoid, not for {self.form}; leave out form, or learn"
            )
        for name, value, (low, high) in zip(
            ("s", "e", "tau"), self.curve, LEARNED_BOX, strict=True
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"learn=true keeps {name} in [{low:g}, {high:g}]; give a start there, or "
                    "leave it out"
                )
        rate, mean = sigmoid_limits(*self.curve)
        if rate > MAX_RATE or not MEAN_RANGE[0] <= mean <= MEAN_RANGE[1]:
            raise ValueError(
                f"learn=true keeps max dγ/dt ≤ {MAX_RATE:g} and ∫γ dt in [{MEAN_RANGE[0]:g}, "
                f"{MEAN_RANGE[1]:g}], and this "
                f"start has {rate:.3g} and {mean:.3g}; leave out s, e and tau"
            )

    @property
    def curve(self) -> tuple[float, float, float]:
        """(s, e, τ) of a sigmoid or cosine."""
        if self.s is None or self.e is None or self.tau is None:
            raise ValueError(f"{self.form} γ has no s, e and tau")
        return self.s, self.e, self.tau


def sigmoid_limits(s: float, e: float, tau: float) -> tuple[float, float]:
    """(max dγ/dt, ∫γ dt) of a sigmoid with s ≤ 0 ≤ e."""
    p, q, rise = s / tau, e / tau, _sigmoid_rise(s, e, tau)
    low = (1 + math.tanh(p / 2)) / 2
    integral = (
        math.log1p(math.exp(-abs(q))) + max(q, 0) - math.log1p(math.exp(-abs(p))) - max(p, 0)
    )
    return (q - p) / 4 / rise, (integral / (q - p) - low) / rise


def _sigmoid_rise(s: float, e: float, tau: float) -> float:
    """σ(e/τ) − σ(s/τ), the denominator of the normalised sigmoid; in the tails it cancels."""
    return (math.tanh(e / (2 * tau)) - math.tanh(s / (2 * tau))) / 2


class WhiteParams(Params):
    """White noise has no parameters."""


class ColouredParams(Params):
    """Static noise of a given power spectrum."""

    factor: Literal["cholesky", "spectral"] = Field(
        "cholesky",
        description="root of the covariance: lower triangular as in BNDM, or symmetric by FFT "
        "(isotropic, any size)",
    )
    jitter: float = Field(
        1e-3,
        ge=0,
        le=1,
        description="j of (1−j)Σ + jI: the power left where the spectrum has none, as at "
        "frequency 0",
    )

    @model_validator(mode="after")
    def _invertible(self) -> ColouredParams:
        if self.factor == "cholesky" and self.jitter < 1e-12:
            raise ValueError(
                "factor=cholesky needs jitter ≥ 1e-12: Σ is singular; take jitter=1e-3 or "
                "factor=spectral"
            )
        return self


class MaskParams(ColouredParams):
    """Noise with the spectrum of blue-noise masks."""

    spectrum: ContentPath | None = Field(
        None,
        description="file made by 'noisereg noise build', of the images' size; the shipped "
        "spectra if left out",
    )


class TimeVaryingParams(MaskParams):
    """ε_t = (γ_t z + (1−γ_t) L z)/c_t: the static colour at t = 0, white at t = 1."""

    gamma: Gamma = Field(Gamma.model_validate({}), description="γ(t)")
    transport: Literal["heads", "whiten"] = Field(
        "heads", description="how ε̂_t becomes ε̂_s: the network also predicts (L−I)z, or L_s L_t⁻¹"
    )
    normalize: bool = Field(
        False,
        description="divide by the root of the mean square, which falls below 1 between the ends",
    )


class PowerLawParams(ColouredParams):
    """F⁻¹(|f|^p F(z)): the amplitude at frequency f is |f| to the power of the exponent."""

    exponent: float = Field(
        -1.0,
        ge=-4,
        le=4,
        description="p: −1 is 1/f² power (red, Brownian), −0.5 pink, 0 white, 0.5 blue, 1 violet",
    )
    factor: Literal["cholesky", "spectral"] = Field(
        "spectral",
        description="root of the covariance: symmetric by FFT (isotropic, any size), or lower "
        "triangular",
    )


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="white",
        impl="noisereg.noises.white:WhiteNoise",
        params=WhiteParams,
        summary="independent Gaussian numbers, for images and points",
    )
    yield Component(
        name="blue",
        impl="noisereg.noises.blue:BlueNoise",
        params=MaskParams,
        summary="static blue noise: Gaussian, with the spectrum of void-and-cluster masks",
        cite="Huang et al. 2024, arXiv 2402.04930; Ulichney 1993",
    )
    yield Component(
        name="blue-tv",
        impl="noisereg.noises.time_varying:BlueTimeVarying",
        params=TimeVaryingParams,
        summary="blue at the data, white at the noise: ε_t = (γ_t z + (1−γ_t) L z)/c_t",
        cite="Huang et al. 2024, arXiv 2402.04930",
    )
    yield Component(
        name="red",
        impl="noisereg.noises.blue:RedNoise",
        params=MaskParams,
        summary="static red noise: the blue spectrum mirrored in frequency",
    )
    yield Component(
        name="red-tv",
        impl="noisereg.noises.time_varying:RedTimeVarying",
        params=TimeVaryingParams,
        summary="red at the data, white at the noise",
        cite="Huang et al. 2024, arXiv 2402.04930, figure on white to red (which leaves red "
        "undefined)",
    )
    yield Component(
        name="power-law",
        impl="noisereg.noises.blue:PowerLawNoise",
        params=PowerLawParams,
        summary="static noise of amplitude |f|^exponent",
    )
