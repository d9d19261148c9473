"""The shipped noises pass the kit that third parties' noises are held to."""

from noisereg.testing import conformance

test_white = conformance("noise", "white")
test_blue = conformance("noise", "blue")
test_blue_tv = conformance("noise", "blue-tv")
test_red_tv_by_whitening = conformance(
    "noise", "red-tv:factor=spectral,transport=whiten,normalize=true"
)
test_power_law = conformance("noise", "power-law")
