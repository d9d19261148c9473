"""The idea in one place: a law, a noise, a loss, a solver."""
