"""kubectl's plugin as krew installs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from dev.lib import host, plugin

PROJECT = {"version": "1.2.3"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The archive without the libraries that come from PyPI."""
    (tmp_path / "tree/lib/some").mkdir(parents=True)
    (tmp_path / "tree/lib/some/fast.so").write_bytes(b"\x7fELF")
    plugin.lay_out(tmp_path / "tree", PROJECT)
    plugin.pack(tmp_path / "tree", tmp_path / "one.tar.gz")
    return tmp_path / "one.tar.gz"


def test_it_runs_from_a_link_in_the_path(archive: Path, tmp_path: Path) -> None:
    """As krew makes one."""
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "store", filter="data")
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / plugin.PROGRAM
    link.symlink_to(tmp_path / "store" / plugin.PROGRAM)

    words = [sys.executable, "-I", str(link), "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)

    assert done.stdout == "kubectl zeropod 1.2.3\n"


def test_the_same_files_are_the_same_archive(archive: Path, tmp_path: Path) -> None:
    """And nothing in it is for one machine only."""
    plugin.pack(tmp_path / "tree", tmp_path / "two.tar.gz")

    assert archive.read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert {"LICENSE", plugin.PROGRAM, "lib/kubectl_zeropod/__main__.py"} <= set(names)
    assert not [name for name in names if name.endswith(".so") or "__pycache__" in name]


def test_krews_manifest_names_what_is_packed() -> None:
    """The template, filled in as krew's bot does."""
    text = (host.REPOSITORY / ".krew.yaml").read_text(encoding="utf-8")
    text = re.sub(
        r"\{\{addURIAndSha \"([^\"]+)\" \.TagName \}\}", r"uri: \1\n      sha256: 0", text
    )
    manifest = yaml.safe_load(text.replace("{{ .TagName }}", "v1.2.3"))

    assert manifest["metadata"]["name"] == "zeropod"
    assert manifest["spec"]["version"] == "v1.2.3"
    [platform] = manifest["spec"]["platforms"]
    assert platform["bin"] == plugin.PROGRAM
    assert platform["uri"].endswith("/v1.2.3/kubectl-zeropod.tar.gz")
    assert len(manifest["spec"]["shortDescription"]) <= 50
