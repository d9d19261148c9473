"""What a feature extractor must do."""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import Features
from noisereg.errors import NoiseregError
from noisereg.testing.kinds.common import EXACT, relative_error, unchanged, untouched_generators
from noisereg.testing.kinds.metric import SHAPES, pictures
from noisereg.testing.kit import CheckFailed, Subject, check, expect


def first_features(subject: Subject) -> tuple[Features, Tensor]:
    """The extractor and 6 samples of a shape that it takes."""
    reasons = []
    for shape in SHAPES:
        x = pictures(shape, 6, 1)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                features: Features = subject.build(shape=shape)
            features(x)
            return features, x
        except NoiseregError as error:
            reasons.append(f"{shape}: {error}")
    raise CheckFailed(f"it refuses every shape tried: {'; '.join(reasons)}")


@check("features", EXACT)
def one_row_a_sample(subject: Subject) -> None:
    """(N, D), float or uint8 and finite, from uint8 images or float points, without a gradient;
    from one sample too.
    """
    features, x = first_features(subject)
    rows = features(x)
    expect(
        rows.ndim == 2 and len(rows) == len(x),
        f"it gives {tuple(rows.shape)} for {len(x)} samples; expected (N, D)",
    )
    expect(
        rows.is_floating_point() or rows.dtype == torch.uint8,
        f"it gives {rows.dtype}; expected float or uint8",
    )
    expect(bool(torch.isfinite(rows.float()).all()), "its features are not finite")
    expect(not rows.requires_grad, "its features have a gradient: use torch.inference_mode")
    expect(
        features(x[:1]).shape == (1, rows.shape[1]),
        "of one sample it gives another number of features",
    )


@check("features", "exact up to a relative 1e-4, for kernels that depend on the batch size")
def samples_do_not_see_each_other(subject: Subject) -> None:
    """A sample's features do not depend on the other samples, or on their order."""
    features, x = first_features(subject)
    together = features(x)
    error = relative_error(torch.cat([features(x[k : k + 1]) for k in range(len(x))]), together)
    expect(
        error <= 1e-4,
        f"the features of single samples differ from those in a batch by {error:.1e}",
    )


@check("features", EXACT)
def depends_on_its_input_alone(subject: Subject) -> None:
    """Called twice it gives the same features, draws from no global generator and changes nothing
    in place.
    """
    features, x = first_features(subject)
    with unchanged("it", x=x), untouched_generators("it"):
        one, two = features(x), features(x)
    expect(torch.equal(one, two), "it gives two results for the same samples")


@check("features", EXACT)
def names_itself(subject: Subject) -> None:
    """identity is not empty and the same for two builds: it tells cached results of different
    extractors apart.
    """
    one, two = first_features(subject)[0], first_features(subject)[0]
    expect(bool(one.identity), "identity is empty: give a hash of weights and settings")
    expect(
        one.identity == two.identity,
        f"two builds call themselves {one.identity!r} and {two.identity!r}",
    )
