"""A run, told on one page that opens without a network."""

from netpress.report.page import make_report

__all__ = ["make_report"]
