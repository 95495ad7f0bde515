"""A trained optimizer: its files, and its use as an optax transformation."""
