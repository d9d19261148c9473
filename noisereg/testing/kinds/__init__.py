"""The checks: a module a kind, and those that every kind shares."""
