"""Recipes run: folders, stages in order, plans, sweeps."""
