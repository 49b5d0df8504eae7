"""Sweeps: several runs from one recipe, and one table of what they came to."""

from netpress.runs.sweep.members import Member, SweepMembers, read_sweep
from netpress.runs.sweep.plan import plan_sweep
from netpress.runs.sweep.results import report_sweep
from netpress.runs.sweep.run import SweepResult, run_sweep

__all__ = ["Member", "SweepMembers", "SweepResult", "plan_sweep", "read_sweep", "report_sweep", "run_sweep"]
