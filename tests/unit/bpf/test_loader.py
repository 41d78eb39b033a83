"""Loader and pins, as far as they go without a kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bpf import loader
from bpf.errors import ToolchainError
from bpf.pins import Pins, is_bpffs


def test_a_split_header_tree_becomes_one(tmp_path: Path):
    """Debian's two halves are merged file by file, the architecture's half first."""
    half, common = tmp_path / "half", tmp_path / "common"
    for path, text in (
        (half / "include/generated/autoconf.h", "half"),
        (half / "Makefile", "half"),
        (common / "include/uapi/linux/bpf.h", "common"),
        (common / "Makefile", "common"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    loader.merge(tmp_path / "tree", half, common)
    assert (tmp_path / "tree/include/generated/autoconf.h").read_text() == "half"
    assert (tmp_path / "tree/include/uapi/linux/bpf.h").read_text() == "common"
    assert (tmp_path / "tree/Makefile").read_text() == "half"


def test_a_header_tree_given_by_the_user_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """BCC_KERNEL_SOURCE is bcc's own setting; it is neither replaced nor removed."""
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    with loader.header_tree():
        pass
    assert os.environ["BCC_KERNEL_SOURCE"] == str(tmp_path)


def test_a_missing_compiler_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without bcc the error says what to install."""
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(ToolchainError, match="python3-bpfcc"):
        loader.load(tmp_path)


def test_other_builds_are_unpinned_and_ours_is_kept(tmp_path: Path):
    """Old programs, old layouts and the rest of an interrupted load go; foreign names stay."""
    pins = Pins(tmp_path)
    stale = [tmp_path / name for name in ("programs-0", "maps-0", "new-17")]
    kept = [pins.maps, pins.programs, tmp_path / "foreign"]
    for directory in (*stale, *kept):
        directory.mkdir()
        (directory / "pin").touch()
    pins.remove_stale()
    assert not any(directory.exists() for directory in stale)
    assert all((directory / "pin").exists() for directory in kept)


def test_an_interrupted_load_is_not_complete(tmp_path: Path):
    """Only the renamed directory counts."""
    pins = Pins(tmp_path)
    pins.maps.mkdir()
    (tmp_path / "new-17").mkdir()
    assert not pins.complete()
    pins.programs.mkdir()
    assert pins.complete()


def test_an_ordinary_directory_is_no_place_for_pins(tmp_path: Path):
    """Pins need a bpf file system, which a temporary directory is not."""
    assert not is_bpffs(tmp_path / "zeropod")
