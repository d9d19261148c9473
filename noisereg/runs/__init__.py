"""A run: its configuration, parts, draws, training, checkpoints and folder."""
