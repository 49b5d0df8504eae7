"""The report of a run: one page that opens offline."""

from netpress.report.page import make_report

__all__ = ["make_report"]
