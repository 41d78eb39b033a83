"""Files, restarts and the way back."""

import os
import shutil
import subprocess
import sys

import pytest
from unit.installer.fake_nodes import found, plain

from installer import checks, containerd, layouts, payload, runtime
from installer.errors import InstallError
from installer.host import Host

CONFIG = "/etc/containerd/config.toml"


class Time:
    """A clock that goes on when somebody waits."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds


def apply(node, **more):
    layout = layouts.find(node)
    time = Time()
    changes = containerd.install(layout, found(node, layout))
    return runtime.apply(
        node, layout, changes, timeout=5, clock=time.clock, pause=time.pause, **more
    )


@pytest.fixture
def source(tmp_path):
    """A payload."""
    made = tmp_path / "payload"
    for name, text in (
        ("criu/criu", "elf"),
        ("criu/lib/libc.so.6", "elf"),
        ("container/init", "1"),
        ("container/wake", ""),
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


@pytest.fixture
def node(tmp_path):
    made = plain(tmp_path / "node", config="version = 2\n")
    yield made
    for one in made.listening.values():
        one.close()


def test_containerd_is_restarted_once(node):
    """When something has changed, and not again."""
    apply(node)
    assert node.restarts() == ["containerd"]
    assert apply(node) == []
    assert node.restarts() == ["containerd"]


def test_what_was_there_is_kept_beside_it(node):
    """From before the first installation, not from before the last."""
    apply(node)
    node.put(CONFIG, node.read(CONFIG).replace("disable = false", "disable = true"))
    apply(node)

    assert node.read(CONFIG + runtime.BACKUP) == "version = 2\n"


def test_a_containerd_that_does_not_come_up_gets_its_old_configuration_back(node):
    """And is restarted with it; the reason says so."""
    node.comes_up[:] = [False, True]
    with pytest.raises(InstallError, match="the old one is back"):
        apply(node)

    assert node.read(CONFIG) == "version = 2\n"
    assert node.restarts() == ["containerd", "containerd"]
    assert node.answers("/run/containerd/containerd.sock")


def test_an_installation_that_was_cut_off_before_the_restart_is_completed(node, monkeypatch):
    """The files are right by then, and containerd does not know them."""
    monkeypatch.setattr(runtime, "_restart", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        apply(node)
    monkeypatch.undo()
    assert node.restarts() == []
    apply(node)

    assert node.restarts() == ["containerd"]


def test_a_node_without_systemd_is_told(node):
    """Nothing is changed there."""
    shutil.rmtree(node.real("/run/systemd"))
    with pytest.raises(InstallError, match="restart containerd yourself"):
        apply(node)
    assert node.read(CONFIG) == "version = 2\n"


def test_a_configuration_that_cannot_be_written_is_told(node):
    """Talos and Bottlerocket keep it elsewhere; root can write everything but below a file."""
    with pytest.raises(InstallError, match="by hand"):
        node.write("/usr/bin/containerd/config.toml", "")


def test_mode_and_owner_of_a_file_stay(node):
    """Somebody has thought about them."""
    real = node.real(CONFIG)
    real.chmod(0o600)
    apply(node)
    assert real.stat().st_mode & 0o777 == 0o600
    assert real.stat().st_uid == os.getuid()


def test_links_are_followed_inside_of_the_node(tmp_path):
    """An absolute one starts at the node's root, not at ours, and none leads out."""
    node = Host(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/containerd").symlink_to("/real")
    (tmp_path / "etc/out").symlink_to("../../../../../real")
    (tmp_path / "etc/round").symlink_to("round")

    assert node.real("/etc/containerd/config.toml") == tmp_path / "real/config.toml"
    assert node.real("/etc/out/x") == tmp_path / "real/x"
    with pytest.raises(InstallError, match="circles"):
        node.real("/etc/round/x")


def test_the_payload_is_shipped_once(node, source):
    """Then there is nothing to do, and a new version takes its place while the old one stays for a while."""
    assert payload.ship(node, source)
    assert payload.ship(node, source) == []
    first = os.readlink(node.real("/opt/zeropod") / "criu")
    for version in ("two", "three"):
        (source / "criu/criu").write_text(version)
        payload.ship(node, source)

    opt = node.real("/opt/zeropod")
    assert (opt / "criu/criu").read_text() == "three"
    assert len(list((opt / "versions").iterdir())) == payload.KEPT
    assert not (opt / first).exists()


def test_the_file_that_wakes_is_never_replaced(node, source):
    """The daemon watches that very file, in containers that sleep."""
    payload.ship(node, source)
    wake = node.real("/opt/zeropod/container/wake")
    inode = wake.stat().st_ino
    (source / "container/wake").write_text("other")
    (source / "container/init").write_text("2")
    payload.ship(node, source)

    assert wake.stat().st_ino == inode
    assert node.read("/opt/zeropod/container/init") == "2"


def test_what_was_not_shipped_is_not_removed(node, source):
    """Neither a file beside ours, nor a directory in criu's place."""
    payload.ship(node, source)
    node.put("/opt/zeropod/notes.txt", "mine")
    payload.remove(node)

    assert [path.name for path in node.real("/opt/zeropod").iterdir()] == ["notes.txt"]


def test_a_directory_in_the_place_of_our_link_is_told(node, source):
    """It is not ours to move."""
    node.put("/opt/zeropod/criu/own", "x")
    with pytest.raises(InstallError, match="not ours"):
        payload.ship(node, source)


@pytest.mark.parametrize(
    ("release", "ok"),
    [("6.12.1-amd64", True), ("5.10.0", True), ("5.4.0-150", False), ("odd", False)],
)
def test_kernels_are_judged(release, ok):
    """And an old one is told which it should be."""
    found = checks.kernel(release)
    assert found.ok is ok
    assert ok or "5.10" in found.remedy


def test_a_criu_that_does_not_work_is_told(tmp_path):
    """A bundle that is not there is the image's fault, and no traceback."""
    found = checks.criu(tmp_path)
    assert not found.ok
    assert found.remedy


def test_the_plan_changes_nothing(node, source):
    """It prints a diff, and the restart."""
    before = node.files()
    program = [
        sys.executable,
        "-m",
        "installer",
        "install",
        "--plan",
        "--host-root",
        str(node.root),
        "--payload",
        str(source),
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if os.geteuid():
        assert "needs root" in done.stderr
    else:
        assert "+[plugins" in done.stdout
        assert "restart" in done.stdout
    assert node.files() == before
