"""Trained optimizers against tuned baselines: runs, scores, pictures, the report."""
