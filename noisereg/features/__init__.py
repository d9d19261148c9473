"""The spaces in which metrics measure."""
