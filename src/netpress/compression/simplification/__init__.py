"""What a network computes for nothing: whole modules, and channels."""
