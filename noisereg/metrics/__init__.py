"""Numbers from samples, reference data and models."""
