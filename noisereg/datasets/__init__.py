"""Data sets: images and 2-D points."""
