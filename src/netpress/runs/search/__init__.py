"""Searches: recipes of a space are tried, the next where the better ones were, and the best is a recipe again."""
