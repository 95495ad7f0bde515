"""Published experiments on small problems, one per file; `python -m experiments.NAME` runs one and checks it."""
