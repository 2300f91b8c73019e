"""Reports drawn from a record alone: a summary for the terminal, report.md, and report.html in one file.

The same record always gives the same bytes: nothing here reads a clock, the disk or the host.
"""

from __future__ import annotations

from repro.report.text import terminal_summary
from repro.report.writer import write_report

__all__ = ["terminal_summary", "write_report"]
