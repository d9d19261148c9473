"""Noises: white, blue, red and power-law, static or time-varying."""
