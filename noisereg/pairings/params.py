"""Parameters of the built-in pairings; torch-free."""

from __future__ import annotations

from typing import Literal

from noisereg.api import Field, Params


class PairingParams(Params):
    cost: Literal["latent", "noised"] = Field(
        "latent",
        description="between noise i and image j: ‖z_i − x_j‖, under which z given t stays N(0, I); or BNDM's "
        "‖L_{t_i}z_i − x_j‖, which moves (z_i, t_i) together",
    )
