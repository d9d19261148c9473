"""noisereg: diffusion models with any noise and any regularizer."""

__version__ = "0.1.0"
