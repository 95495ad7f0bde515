"""What a trained optimizer does, in numbers and pictures."""
