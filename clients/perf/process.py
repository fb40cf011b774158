"""Processes: what the broker costs, read from /proc.

Law: figures are those of the kernel for the process and all its descendants: user plus system
time, and resident memory. Nothing is asked of the broker itself.

Called by: run, connections and fill (the broker).
"""

import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return the process and its descendants, those that vanish meanwhile left out."""
    found = [pid]
    for parent in found:
        try:
            for children in PROC.glob(f"{parent}/task/*/children"):
                found.extend(int(child) for child in children.read_text().split())
        except OSError:
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """Return user and system time of the process, its children and those already gone."""
    ticks = 0
    for process in tree(pid):
        try:
            fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # behind the name: state is field 3 of proc(5); utime, stime, cutime, cstime are 14 to 17
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICK


def machine_seconds() -> float:
    """Return the CPU time that all processes and the kernel have used, and what was stolen."""
    with (PROC / "stat").open() as lines:
        fields = [int(field) for field in next(lines).split()[1:9]]
    # proc(5): user nice system idle iowait irq softirq steal
    return (sum(fields) - fields[3] - fields[4]) / TICK


def rss_bytes(pid: int) -> int:
    """Return the resident memory of the process and its descendants."""
    return sum(_status(process, "VmRSS:") for process in tree(pid))


def peak_rss_bytes(pid: int) -> int:
    """Return the highest resident memory since `forget_peak`, or since the start without it."""
    return sum(_status(process, "VmHWM:") for process in tree(pid))


def forget_peak(pid: int) -> None:
    """Let the kernel's high-water mark of resident memory start anew, where we may."""
    for process in tree(pid):
        try:
            (PROC / str(process) / "clear_refs").write_text("5")
        except OSError:
            continue


def settled_rss_bytes(pid: int, patience: float = 10.0) -> int:
    """Return the resident memory once it stays within 1 % for a second, or when patience ends."""
    end = time.monotonic() + patience
    before = rss_bytes(pid)
    while time.monotonic() < end:
        time.sleep(1.0)
        now = rss_bytes(pid)
        if abs(now - before) <= before // 100:
            return now
        before = now
    return before


def _status(pid: int, field: str) -> int:
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
