"""Which cgroup is the kubelet's, and when the ear is moved there."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpointer import cgroups, kubelet

HOST, CONTAINER = "net:[1]", "net:[2]"


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc; a process's cgroup is a directory named after its pid below the mount."""
    root, mount = tmp_path / "proc", tmp_path / "cgroup"
    monkeypatch.setattr(cgroups, "mount_of", lambda _: mount)

    def of(pid):
        return SimpleNamespace(v2=mount / (root / f"{pid}/cgroup").read_text().strip()[4:])

    monkeypatch.setattr(cgroups, "of", of)

    def process(pid, comm, cgroup, net=HOST):
        directory = root / str(pid)
        (directory / "ns").mkdir(parents=True)
        (directory / "comm").write_text(f"{comm}\n")
        (directory / "cgroup").write_text(f"0::/{cgroup}\n")
        (directory / "ns/net").symlink_to(net)
        (mount / cgroup).mkdir(parents=True, exist_ok=True)
        return mount / cgroup

    process(1, "systemd", "init.scope")
    (root / "self").mkdir()
    return SimpleNamespace(root=root, process=process)


@pytest.mark.parametrize("name", ["kubelet", "k3s-server", "kubelite"])
def test_it_is_found_by_its_name(proc, name):
    """In whatever cgroup it is."""
    group = proc.process(20, name, "system.slice/kubelet.service")

    assert kubelet.find("auto", proc.root) == {group: 20}


@pytest.mark.parametrize(
    ("comm", "cgroup", "net"),
    [
        ("nginx", "system.slice/nginx.service", HOST),
        ("kubelet", "kubepods.slice/kubepods-pod1.slice/cri-1.scope", HOST),
        ("kubelet", "system.slice/docker-1.scope", CONTAINER),
        ("kubelet", "", HOST),
    ],
)
def test_nobody_else_is_taken_for_it(proc, comm, cgroup, net):
    """A container's process of that name, one of another network, one whose cgroup is everybody's."""
    proc.process(20, comm, cgroup, net)

    assert kubelet.find("auto", proc.root) == {}


def test_a_setting_overrides(tmp_path):
    """A directory is taken as it is; none, or one that is not there, is nobody's."""
    assert kubelet.find(str(tmp_path)) == {tmp_path: 0}
    assert kubelet.find("") == {}
    assert kubelet.find(str(tmp_path / "gone")) == {}


class Ear:
    def __init__(self, *, fails=0):
        self.puts = []
        self.fails = fails

    def put(self, groups):
        if self.fails:
            self.fails -= 1
            raise OSError("refused")
        self.puts.append(list(groups))


def test_it_is_followed(tmp_path):
    """A cgroup that was made anew is another one; what has not changed is left alone, and what failed is tried again."""
    ear, group = Ear(fails=1), tmp_path / "kubelet"
    watch = kubelet.Watch(str(group), ear, lambda _: None)
    watch.look()
    assert not watch.heard
    group.mkdir()
    (tmp_path / "another").mkdir()
    watch.look()
    watch.look()
    assert ear.puts == [[group]]
    Path(group).rename(tmp_path / "former")
    (tmp_path / "another").rename(group)
    watch.look()
    assert ear.puts == [[group], [group]]
    assert watch.heard


def test_a_look_that_breaks_is_not_the_last(tmp_path):
    """What depends on it may fail for a pod that is just going; the next look is made all the same."""
    looks = []

    def looked(anew):
        looks.append(anew)
        raise OSError("the pod is gone")

    watch = kubelet.Watch(str(tmp_path), SimpleNamespace(put=lambda _: None), looked)
    watch.again()
    watch.again()

    assert looks == [True, False]
