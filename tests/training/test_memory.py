"""Freed memory is kept in a process that asks for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mlip.training.memory import keep_freed_memory

SCRIPT = """
import resource, sys
import torch
from mlip.training import keep_freed_memory
assert not int(sys.argv[1]) or keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        kept = [torch.ones(1 << 20) for _ in range(4)]
        kept.append(torch.ones(1 << 23))
work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to ask for without glibc")
def test_pages_are_not_mapped_again() -> None:
    default, kept = (int(subprocess.run([sys.executable, "-c", SCRIPT, flag], capture_output=True, text=True,
                                        check=True).stdout) for flag in "01")
    assert kept < default / 4


def test_nothing_is_done_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip.training.memory.platform.libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
