"""Validation: whole trainings of a theta on tasks that it is not trained on, as a score against tuned Adam."""
