"""Sweeps: several runs from one recipe, and one table of what they came to."""

from netpress.sweep.members import Member, SweepMembers, read_sweep

__all__ = ["Member", "SweepMembers", "read_sweep"]
