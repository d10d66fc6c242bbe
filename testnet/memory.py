"""How much memory a run's processes take: sampled from /proc, cheaply, the peak of the sum.

Resident memory counts a page that is shared by twenty forks twenty times; the proportional share (PSS)
counts it once. Reading a PSS costs milliseconds of the kernel's time, so each sample reads a few processes
and takes the others' last values. Knows no node. Without /proc both are 0.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# About 5 ms each: 2 % of one processor at one sample a second.
PSS_READS_A_SAMPLE = 8


class Memory:
    """Peaks of one process and everything that descends from it."""

    def __init__(self, root: int, *, proc: Path = Path("/proc")) -> None:
        self.peak_rss_bytes = 0
        self.peak_pss_bytes = 0
        self.processes = 0
        self._root = root
        self._proc = proc
        self._pss: dict[int, int] = {}
        self._turn = 0

    def sample(self) -> None:
        """Look once."""
        pids = self._family()
        self.processes = max(self.processes, len(pids))
        self.peak_rss_bytes = max(self.peak_rss_bytes, sum(self._rss(pid) for pid in pids))
        self._pss = {pid: self._pss[pid] for pid in pids if pid in self._pss}
        unread = [pid for pid in pids if pid not in self._pss]
        again = [pid for pid in pids if pid in self._pss]
        shift = self._turn % len(again) if again else 0
        for pid in (*unread, *again[shift:], *again[:shift])[:PSS_READS_A_SAMPLE]:
            self._pss[pid] = self._read_pss(pid)
        self._turn = shift + max(0, PSS_READS_A_SAMPLE - len(unread))
        self.peak_pss_bytes = max(self.peak_pss_bytes, sum(self._pss.values()))

    def _family(self) -> list[int]:
        children: dict[int, list[int]] = defaultdict(list)
        if not self._proc.is_dir():
            return []
        for entry in self._proc.iterdir():
            if entry.name.isdigit():
                stat = self._read(entry / "stat")
                # The name in brackets may hold anything; what follows is "state parent ..".
                if stat:
                    children[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
        found, pending = [], [self._root]
        while pending:
            pid = pending.pop()
            found.append(pid)
            pending += children[pid]
        return sorted(found)

    def _rss(self, pid: int) -> int:
        words = self._read(self._proc / str(pid) / "statm").split()
        return int(words[1]) * _PAGE_BYTES if len(words) > 1 else 0

    def _read_pss(self, pid: int) -> int:
        for line in self._read(self._proc / str(pid) / "smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    @staticmethod
    def _read(path: Path) -> str:
        """A process may end while one looks at it."""
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
