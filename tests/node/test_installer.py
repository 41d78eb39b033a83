"""The installer's words, held against a real containerd and a real criu."""

from __future__ import annotations

import dataclasses
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from installer import checks, containerd, layouts
from installer.host import Host

CONFIG = """\
version = 2
imports = ["{directory}/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/kept:1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""


def dump(config: Path) -> dict[str, Any]:
    """The configuration as containerd itself understands it."""
    program = ["containerd", "--config", str(config), "config", "dump"]
    told = subprocess.run(program, capture_output=True, text=True, check=True)
    return tomllib.loads(told.stdout)["plugins"]


@pytest.mark.both
def test_containerd_understands_what_is_written(tmp_path: Path) -> None:
    """NRI is on, our runtime is runc with runc's options, and what was set before still is."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(directory=tmp_path))
    assert dump(config)["io.containerd.nri.v1.nri"]["disable"] is True

    usual = layouts.find(Host(), "containerd")
    layout = dataclasses.replace(usual, config=str(config), drop_in=str(tmp_path / "conf.d"))
    found = containerd.Found(config.read_text(), None, None, layouts.version(Host(), layout))
    for change in containerd.install(layout, found):
        assert change.after is not None
        Host().write(change.path, change.after)

    plugins = dump(config)
    assert plugins["io.containerd.nri.v1.nri"]["disable"] is False
    cri = plugins.get("io.containerd.cri.v1.runtime") or plugins["io.containerd.grpc.v1.cri"]
    runtimes = cri["containerd"]["runtimes"]
    # 2.3 fills in what is left out where the configuration itself says it, and not for merged files.
    assert runtimes["zeropod"]["runtime_type"] == runtimes["runc"]["runtime_type"]
    assert runtimes["zeropod"]["options"]["BinaryName"] == "/usr/sbin/runc"
    assert "localhost/kept:1" in str(plugins)


def test_criu_is_tried_for_real() -> None:
    """A process is frozen and thawed; nothing of it is left."""
    found = checks.criu(Path("/opt/zeropod/criu"))
    assert found.ok, found
    assert "froze and thawed" in found.found
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"signal.pause" in path.read_bytes()
    ]
    assert left == []
