"""What rules share on the PyTorch side, and what would make a rule's own file too long to read."""
