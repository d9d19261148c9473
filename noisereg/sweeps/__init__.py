"""Sweeps: the grid and its folder, what its cells share, and their processes."""
