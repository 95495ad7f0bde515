"""Published experiments on small problems, one a file: `python -m experiments.NAME` runs one and checks its finding."""
