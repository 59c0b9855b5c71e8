"""Disks that are full, folders that cannot be written, and processes that have little."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disk", "few_descriptors", "heed_permissions", "small_disk"]

_CAP_DAC_OVERRIDE, _PR_CAPBSET_DROP = 1, 24
_DISK_BYTES = 4 << 20


@dataclass(frozen=True)
class Disk:
    """A disk that gets full.

    Attributes
    ----------
    path : Path
        A folder on it, empty.
    before : callable
        What a process has to do first, to find it full.
    """

    path: Path
    before: Callable[[], None]
    _ballast: Path

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(room: int, elsewhere: Path) -> Iterator[Disk]:
    """Give a disk with so many bytes of room.

    It is a file system of its own, in memory, that other processes do not see and that goes with
    the one that mounted it. Where nobody may mount any, every file has this limit instead.
    """
    mount = f"mount -t tmpfs -o size={_DISK_BYTES} tmpfs /mnt && echo there && exec cat"
    for apart in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            holder = subprocess.Popen(
                [*apart, "sh", "-c", mount],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except FileNotFoundError:
            break
        with holder:
            assert holder.stdout is not None
            if holder.stdout.readline() != "there\n":
                continue
            root = Path(f"/proc/{holder.pid}/root/mnt")
            (root / "ballast").write_bytes(bytes(_DISK_BYTES - room))
            (root / "own").mkdir()
            try:
                yield Disk(root / "own", lambda: None, root / "ballast")
            finally:
                holder.kill()
            return
    (elsewhere / "own").mkdir()
    limit = (elsewhere / "limit").resolve()
    limit.touch()

    def refuse() -> None:
        if limit.exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (room // 16, room // 16))

    yield Disk(elsewhere / "own", refuse, limit)


def few_descriptors() -> None:
    """Let this process open few files at a time: fewer than a store has chunks."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


def heed_permissions() -> None:
    """Have root heed the permissions of files from its next program on, as others do."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
