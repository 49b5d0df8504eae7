"""Networks written in other formats."""
