"""Released weights of others as networks."""
