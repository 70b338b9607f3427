"""The report: what was asked, shown and not shown, first in plain words; what was measured; which neurons went."""

from zsu_fast.report.analysis import Analysis, analyse
from zsu_fast.report.base import Report
from zsu_fast.report.classes import ClassReport
from zsu_fast.report.of_result import report_of
from zsu_fast.report.page import render
from zsu_fast.report.writing import FORMATS, write_report

__all__ = ["FORMATS", "Analysis", "ClassReport", "Report", "analyse", "render", "report_of", "write_report"]
