"""`python -m lopt.monitor`: meta-training runs, watched while they go on."""
