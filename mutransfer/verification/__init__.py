"""Checks that say pass or fail: whether activations keep their size, and whether optima stay where they are."""
