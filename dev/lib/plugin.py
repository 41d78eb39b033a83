"""`kubectl zeropod` as an archive that runs where there is a Python: what krew downloads."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from dev.lib import host
from dev.lib.process import run

PACKAGE = "kubectl_zeropod"
PROGRAM = "kubectl-zeropod"

#: What it needs of pyproject.toml's dependencies; what those need comes with them.
NEEDS = ("kubernetes", "pyyaml", "urllib3")

#: Plain Python from here to there: what was compiled is an extra that is left out.
TARGET = ["--python-version=3.11", "--implementation=cp", "--abi=cp311",
          "--platform=manylinux2014_x86_64", "--platform=manylinux_2_28_x86_64",
          "--only-binary=:all:"]  # fmt: skip

LAUNCHER = """#!/usr/bin/env python3
import os
import sys

if sys.version_info < (3, 11):
    sys.exit("kubectl-zeropod needs Python 3.11 or later, and python3 is %d.%d" % sys.version_info[:2])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from kubectl_zeropod.__main__ import main

sys.exit(main())
"""


def write(output: Path, project: Dict[str, Any]) -> None:
    """Downloads what the plugin needs and writes the archive."""
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        tree = Path(scratch)
        wanted = [one for one in project["dependencies"] if one.split(">")[0] in NEEDS]
        env, _ = host.index_access()
        run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--root-user-action=ignore", "--no-compile", "--target", tree / "lib", *TARGET, *wanted],
            env=dict(os.environ, **env))  # fmt: skip
        lay_out(tree, project)
        pack(tree, output)


def lay_out(tree: Path, project: Dict[str, Any]) -> None:
    """Adds launcher, licence and our package to the libraries, and leaves out what was compiled."""
    library = tree / "lib"
    shutil.copytree(
        host.REPOSITORY / PACKAGE, library / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
    )
    about = library / ("zeropod-%s.dist-info" % project["version"])
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: zeropod\nVersion: %s\n" % project["version"]
    )
    for compiled in [*library.rglob("*.so"), *library.glob("bin/*")]:
        compiled.unlink()
    shutil.copy(host.REPOSITORY / "LICENSE", tree / "LICENSE")
    (tree / PROGRAM).write_text(LAUNCHER)
    (tree / PROGRAM).chmod(0o755)


def pack(tree: Path, output: Path) -> None:
    """Writes the same bytes for the same files."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # The name of the file and the time would be in it, too.
    with output.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped, \
            tarfile.open(fileobj=zipped, mode="w") as archive:  # fmt: skip
        for path in files(tree):
            member = tarfile.TarInfo(str(path.relative_to(tree)))
            content = path.read_bytes()
            member.size, member.mode = len(content), 0o755 if path.name == PROGRAM else 0o644
            archive.addfile(member, io.BytesIO(content))


def files(tree: Path) -> List[Path]:
    """All files of a tree, in order."""
    return sorted(path for path in tree.rglob("*") if path.is_file())
