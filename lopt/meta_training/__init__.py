"""Training an optimizer: inner trainings, meta-gradients, outer steps, the loop and its files."""
