"""Timings beside other packages, in one process."""
