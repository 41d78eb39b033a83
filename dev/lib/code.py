"""Our Python packages and the `zeropod` command, put where a node has them in production."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Iterable

from dev.lib import host

CODE = "opt/zeropod/lib/python"

COMMAND = (
    """\
#!/bin/sh
PYTHONPATH=/%s exec /opt/zeropod/venv/bin/python -c \\
  'import sys; from checkpointer.cli import main; sys.exit(main())' "$@"
"""
    % CODE
)

#: What a package consists of: modules, BPF sources, the marker for type checkers.
SUFFIXES = (".py", ".c", ".h", ".typed")


def install(root: Path, packages: Iterable[str]) -> None:
    """Replaces the packages below `root`; a running program keeps what it has loaded."""
    target = root / CODE
    fresh = target.parent / "python.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for package in sorted({name.partition(".")[0] for name in packages}):
        source = host.REPOSITORY / package
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                copy = fresh / path.relative_to(host.REPOSITORY)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    fresh.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    command = root / "usr/local/bin/zeropod"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(COMMAND, encoding="utf-8")
    command.chmod(0o755)


def install_files(layer: Path, root: Path) -> None:
    """Puts the files of a layer over those below `root`, one rename each: some are being executed."""
    for path in sorted(layer.rglob("*")):
        if path.is_file():
            target = root / path.relative_to(layer)
            if target.exists() and filecmp.cmp(path, target, shallow=False):
                # The daemon watches `wake` by its inode: what has not changed stays.
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(target.name + ".new")
            shutil.copy2(path, fresh)
            fresh.rename(target)
