"""Which noise goes with which image of a batch."""
