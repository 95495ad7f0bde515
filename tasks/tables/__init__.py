"""Task families on tables."""
