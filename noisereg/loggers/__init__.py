"""Where --log sends what a run measures."""
