"""Checks of what mlip promises, run by users and by the test-suite."""
