"""Our Python packages and the `zeropod` command, put where a node has them in production."""

from __future__ import annotations

import filecmp
import logging
import shutil
from pathlib import Path
from typing import Any, Dict

from dev.lib import host
from dev.lib.errors import DevError
from dev.lib.process import run

log = logging.getLogger("dev")

CODE = "opt/zeropod/lib/python"

COMMAND = (
    """\
#!/bin/sh
PYTHONPATH=/%s exec /opt/zeropod/venv/bin/python -c \\
  'import sys; from checkpointer.cli import main; sys.exit(main())' "$@"
"""
    % CODE
)

#: The sources of an earlier build.
EARLIER = "opt/zeropod/earlier"

#: How much earlier: some days, as between two versions that somebody installs.
COMMITS_AGO = 40

#: What a package consists of: modules, BPF sources, the marker for type checkers.
SUFFIXES = (".py", ".c", ".h", ".typed")


def install(root: Path, project: Dict[str, Any]) -> None:
    """Replaces the packages below `root`; a running program keeps what it has loaded.

    Args:
        root: of the node, or the directory that becomes its topmost layer.
        project: the content of pyproject.toml.
    """
    packages = project["tool"]["setuptools"]["packages"]
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
    _describe(fresh, project["project"])
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    command = root / "usr/local/bin/zeropod"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(COMMAND, encoding="utf-8")
    command.chmod(0o755)


def install_earlier(root: Path) -> None:
    """Puts the sources of some commits ago below `root`, for a test of an upgrade; nothing if git does not have them."""
    git = ["git", "-c", "safe.directory=*", "-C", host.REPOSITORY]
    target = root / EARLIER
    shutil.rmtree(target, ignore_errors=True)
    archive = target.with_suffix(".tar")
    try:
        words = ["rev-list", "--first-parent", "--max-count=1", "--skip=%d" % COMMITS_AGO, "HEAD"]
        commit = run([*git, *words]).strip()
        if not commit:
            raise DevError("fewer than %d commits" % COMMITS_AGO)
        target.mkdir(parents=True)
        run([*git, "archive", "-o", archive, commit])
        run(["tar", "-C", target, "-xf", archive])
    except DevError as error:
        log.debug("no earlier commit: %s", error)
        shutil.rmtree(target, ignore_errors=True)
    finally:
        archive.unlink(missing_ok=True)


def _describe(target: Path, project: Dict[str, Any]) -> None:
    """What pip would leave there: by it a program finds its own version."""
    info = target / "{name}-{version}.dist-info".format(**project)
    info.mkdir(parents=True)
    text = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".format(**project)
    (info / "METADATA").write_text(text, encoding="utf-8")


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
