"""What happened in a run of molecular dynamics: numbers and a picture, from its files."""

from mlip.analysis.report import Analysis, analyze, report

__all__ = ["Analysis", "analyze", "report"]
