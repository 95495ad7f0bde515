"""Trained optimizers: their files, and their use as optax transformations."""
