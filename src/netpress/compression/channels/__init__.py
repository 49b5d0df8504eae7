"""Whole channels: which of them can only go together, how much they matter, and how they are taken out."""
