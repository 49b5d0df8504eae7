"""Networks out of, and into, other formats."""
