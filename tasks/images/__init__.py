"""Task families on images."""
