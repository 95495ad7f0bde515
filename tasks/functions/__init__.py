"""Task families without data."""
