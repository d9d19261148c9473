"""Which components there are: discovery, isolation, look-up, hooks."""
