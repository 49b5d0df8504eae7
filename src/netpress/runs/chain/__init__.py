"""Chains: several networks from one recipe, which begin with or learn from each other, and one page of them."""

from netpress.runs.chain.plan import plan_chain
from netpress.runs.chain.results import report_chain
from netpress.runs.chain.run import run_chain

__all__ = ["plan_chain", "report_chain", "run_chain"]
