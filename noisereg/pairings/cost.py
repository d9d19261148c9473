"""What a pairing minimises."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from noisereg.api import Context, NoiseregError, Pairing
from noisereg.pairings import PairingParams


class DistancePairing(Pairing):
    """Base of pairings by the distance between noise and image.

    Raises:
        NoiseregError: for ``cost=latent`` with a noise whose latents are not one z of the sample's
        shape.
    """

    def __init__(self, params: PairingParams, ctx: Context) -> None:
        self.moves_time = params.cost == "noised"
        if (
            not self.moves_time
            and ctx.noise is not None
            and ctx.noise.latents(ctx.shape) != {"z": tuple(ctx.shape)}
        ):
            raise NoiseregError(
                "a pairing with cost=latent needs a noise with the one latent z; give cost=noised"
            )
        self.summary = "by ‖L_t z − x0‖, t moves with z" if self.moves_time else "by ‖z − x0‖"

    def distances(self, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor) -> Tensor:
        """D[i, j] = ‖noise_i − x0_j‖, (B, B) float64 on the CPU. Raises NoiseregError for a number
        that is not finite.

        As ‖a‖² + ‖b‖² − 2ab about a common centre: in float64 the cancellation leaves differences
        of distances right to 1e-10, and one matrix product is several times faster than B²
        differences of images.
        """
        noise = (eps if self.moves_time else latents["z"]).flatten(1).double()
        images = x0.flatten(1).double()
        centre = images.mean(0)
        noise, images = noise - centre, images - centre
        squared = noise.square().sum(1)[:, None] + images.square().sum(1) - 2 * noise @ images.T
        distances = squared.clamp(min=0).sqrt().cpu()
        if not distances.isfinite().all():
            raise NoiseregError(
                "an image or a noise to be paired holds a number that is not finite"
            )
        return distances
