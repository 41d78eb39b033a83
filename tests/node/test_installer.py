"""The installer's words, held against a real containerd and a real criu."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from node import sleepers
from node.conftest import BUNDLE, plugin_serves

from dev import cri
from installer import __main__ as installer_main
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


def running(marks: bytes) -> list[str]:
    """Processes whose command line has something in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if marks in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_criu_is_tried_for_real() -> None:
    """A process is frozen and thawed; nothing of it is left."""
    found = checks.criu(BUNDLE)
    assert found.ok, found
    assert "froze and thawed" in found.found
    assert running(b"signal.pause") == []


@pytest.mark.both
@pytest.mark.parametrize(
    "config", ["", 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n', "none"]
)
def test_containerd_reads_what_was_written_where_it_was_written(
    config: str, request: pytest.FixtureRequest
) -> None:
    """Whether it imports a directory or not, and if there is no file at all: our runtime is there, and runc still is."""
    etc = Path("/etc/containerd")
    before = {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()}

    def back() -> None:
        for path in [path for path in etc.rglob("*") if path.is_file()]:
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
        with contextlib.suppress(OSError):
            (etc / "conf.d").rmdir()

    request.addfinalizer(back)
    (etc / "config.toml").unlink()
    if config != "none":
        (etc / "config.toml").write_text(config or "version = 2\n")
    layout = layouts.find(Host(), "containerd")
    found = installer_main._found(Host(), layout)
    for change in containerd.install(layout, found):
        assert change.after is not None
        Host().write(change.path, change.after)

    told = subprocess.run(
        ["containerd", "config", "dump"], capture_output=True, text=True, check=True
    )
    assert containerd.problem(told.stdout) == ""
    assert containerd.problem(told.stdout.replace("zeropod", "other")) != ""


RESTART = """
until old=$(cat /run/node/containerd.pid); do sleep 0.1; done; kill "$old"; while kill -0 "$old" 2>/dev/null; do sleep 0.1; done
"""
"""In place of a systemd, which a node of ours has not."""


def restart(runtime: cri.Runtime) -> None:
    """Restart containerd as RESTART does, and wait until it answers."""
    subprocess.run(["sh", "-c", RESTART], check=True)
    serves(runtime)


def serves(runtime: cri.Runtime) -> None:
    """Wait until containerd takes orders: it listens before that."""

    def answers() -> bool:
        try:
            return runtime.call("ListPodSandbox") is not None
        except grpc.RpcError:
            return False

    cri.until(lambda: Path("/run/node/containerd.pid").exists(), 30)
    cri.until(answers, 30)


OURS = {
    """\
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.zeropod]
    runtime_type = "io.containerd.runc.v2"
""": "",
    "disable = false": "disable = true",
}
"""What a node of ours has in its configuration that a bare one has not; NRI is on by default in containerd 2."""


@pytest.fixture
def bare(pods: Callable[..., cri.Pod], runtime: cri.Runtime) -> Iterator[Callable[..., cri.Pod]]:
    """The node as it was before anybody installed something: no NRI, no runtime of ours, no daemon."""
    hold = Path("/run/node/hold/daemon")
    hold.touch()
    os.kill(daemon := sleepers.service_pid("daemon"), signal.SIGTERM)
    cri.until(lambda: not sleepers.alive(daemon), 60)
    config = Path("/etc/containerd/config.toml")
    before = config.read_text()
    plain = before
    for ours, theirs in OURS.items():
        assert plain.count(ours) == 1, ours
        plain = plain.replace(ours, theirs)
    config.write_text(plain)
    restart(runtime)

    def start(**described: Any) -> cri.Pod:
        serves(runtime)
        return pods(**described)

    yield start
    config.write_text(before)
    restart(runtime)
    hold.unlink()
    sleepers.ready(60)
    cri.until(plugin_serves, 60)


def installer(pods: Callable[..., cri.Pod], *words: str) -> tuple[int, str]:
    """Run the installer as the init container of the DaemonSet does; its exit code and what it printed."""
    pod = pods(privileged=True, host_pid=True)
    command = ["python3", "-m", "installer", words[0], "--host-root=/host", *OPTIONS, *words[1:]]
    one = pod.run(
        "localhost/python:1",
        command,
        working_dir="/src",
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        mounts=[
            {"container_path": "/host", "host_path": "/", "propagation": 1},
            {"container_path": "/src", "host_path": "/src", "readonly": True},
        ],
        security={"privileged": True},
    )
    found: list[cri.Status] = []

    def ended() -> bool:
        with contextlib.suppress(grpc.RpcError):  # containerd is away for a while
            found[:] = [one.status()]
        return bool(found) and found[0].state == "exited"

    cri.until(ended, 120)
    return found[0].exit_code, one.logs()


OPTIONS = (
    "--opt=/opt/zeropod-test",
    "--payload=/host/opt/zeropod",
    f"--restart={RESTART}",
)


@pytest.mark.both
@pytest.mark.timeout(240)
def test_a_pod_that_has_containerd_restarted_lives_on(bare: Callable[..., cri.Pod]) -> None:
    """Its init container sees NRI come up, ends with 0, and all it said is in its log; a second one does nothing."""
    config = Path("/etc/containerd/config.toml")
    before, pid = config.read_text(), Path("/run/node/containerd.pid").read_text()
    assert not Host().answers(containerd.SOCKET)
    try:
        code, told = installer(bare, "install")

        assert code == 0, told
        assert "froze and thawed" in told
        assert "restarted containerd" in told
        assert Host().answers(containerd.SOCKET)
        assert (now := Path("/run/node/containerd.pid").read_text()) != pid
        bare(runtime_handler="zeropod").run("localhost/busybox:1", ["sleep", "1000"])

        code, told = installer(bare, "install")
        assert code == 0, told
        assert told.endswith("nothing to do\n")
        assert Path("/run/node/containerd.pid").read_text() == now
    finally:
        code, told = installer(bare, "uninstall")
    assert code == 0, told
    assert config.read_text() == before
    assert not Host().answers(containerd.SOCKET)
    assert [path.name for path in config.parent.iterdir()] == [config.name]
    assert not Path("/opt/zeropod-test").exists()


@pytest.mark.timeout(240)
def test_a_containerd_that_does_not_bear_its_new_configuration_gets_the_old_one(
    bare: Callable[..., cri.Pod],
) -> None:
    """Here NRI fails, and CRI with it, over a file in the directory of its plugins; the pod that did it lives on and says so."""
    config = Path("/etc/containerd/config.toml")
    before = config.read_text()
    stray = Path("/opt/nri/plugins/stray")
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("#!/bin/sh\n")
    stray.chmod(0o755)
    try:
        code, told = installer(bare, "install", "--timeout=8")
    finally:
        stray.unlink()

    assert code == 1, told
    assert "the old one is back" in told.splitlines()[-1]
    assert config.read_text() == before
    assert Host().answers("/run/containerd/containerd.sock")
    code, told = installer(bare, "uninstall")
    assert code == 0, told
    assert not Path("/opt/zeropod-test").exists()


@pytest.mark.timeout(240)
def test_bpffs_is_mounted_for_the_node_and_unmounted_again(bare: Callable[..., cri.Pod]) -> None:
    """As on a node of kind, which has none: in the node's mount namespace, not in the pod's. Nobody else's is unmounted."""
    subprocess.run(["umount", "/sys/fs/bpf"], check=True)
    try:
        code, told = installer(bare, "install")
        assert code == 0, told
        assert "mounted /sys/fs/bpf" in told.splitlines()
        assert Host().mounted("/sys/fs/bpf", "bpf")
        code, told = installer(bare, "uninstall")
        assert code == 0, told
        assert not Host().mounted("/sys/fs/bpf", "bpf")
    finally:
        if not Host().mounted("/sys/fs/bpf", "bpf"):
            subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)
