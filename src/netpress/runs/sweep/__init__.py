"""Sweeps: several runs from one recipe, and one table of what they came to."""

from netpress.runs.sweep.members import Member, SweepMembers, read_sweep
from netpress.runs.sweep.running import SweepResult, plan_sweep, report_sweep, run_sweep

__all__ = ["Member", "SweepMembers", "SweepResult", "plan_sweep", "read_sweep", "report_sweep", "run_sweep"]
