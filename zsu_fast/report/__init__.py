"""The report: one self-contained HTML file that shows what was forgotten, what was kept, and which neurons went."""

from zsu_fast.report.analysis import Analysis, analyse
from zsu_fast.report.classes import ClassReport
from zsu_fast.report.page import Report, render, write_report

__all__ = ["Analysis", "ClassReport", "Report", "analyse", "render", "write_report"]
