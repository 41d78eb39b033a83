"""Debian's packages, unpacked into a directory: nothing is installed and none of their scripts is run."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator, Sequence

from dev.lib import host
from dev.lib.process import run

#: What has to be installed to do so.
TOOLS = ("mmdebstrap", "debian-archive-keyring")


@contextmanager
def unpacked(suite: str, packages: Sequence[str]) -> Iterator[Path]:
    """The files of these packages, and of all they depend on, as long as the context lasts."""
    with TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        tree = Path(scratch) / "tree"
        run(["mmdebstrap", "--mode=root", "--variant=extract", "--quiet", "--include=" + ",".join(packages),
             # Mirrors that stand still at a date are no reason to refuse.
             '--aptopt=Acquire::Check-Valid-Until "false"', suite, tree, host.mirror()])  # fmt: skip
        yield tree
