"""Task families on sequences of symbols."""
