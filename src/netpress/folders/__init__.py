"""Folders that netpress writes: a run's, a stage's, a sweep's. Each class names what lies in its folder."""
