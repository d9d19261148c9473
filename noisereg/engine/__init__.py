"""Training, sampling, checkpoints and the runtime they run on."""
