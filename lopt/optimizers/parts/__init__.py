"""What rules share, and what would make a rule's own file too long to read."""
