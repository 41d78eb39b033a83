"""Who sleeps is found without a daemon, and what stands in the way of an uninstallation."""

import json
import os
import signal
import subprocess
import sys

import pytest
from unit.installer.fake_nodes import plain

from installer import __main__ as main
from installer import checks, sleepers
from installer.cluster import ClusterError
from installer.departure import DAEMON, Departure
from installer.errors import AsleepError, InstallError

ID = "4f" * 32


def process(node, pid, name, started=77, group="/"):
    node.put(f"/proc/{pid}/comm", f"{name}\n")
    node.put(f"/proc/{pid}/stat", f"{pid} ({name}) S " + " ".join(["0"] * 18) + f" {started} 0")
    node.put(f"/proc/{pid}/cgroup", f"0::{group}\n")


def record(node, pid, started=77, **more):
    known = {"pid": pid, "start_time": started, "namespace": "ns", "pod": f"p{pid}", "name": "c"}
    node.put(f"/run/zeropod/containers/{pid}.json", json.dumps(known | more))


@pytest.fixture
def node(tmp_path):
    made = plain(tmp_path)
    process(made, 1, "systemd")
    (made.root / "proc/1/ns").mkdir()
    (made.root / "proc/1/ns/pid").symlink_to("/proc/self/ns/pid")
    return made


class Labels:
    """A cluster that knows our label only."""

    def __init__(self, daemon=None, error=None):
        self.daemon, self.error, self.label = daemon, error, True

    def labelled(self):
        if self.error:
            raise self.error
        return self.label

    def unlabel(self):
        self.label = False
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()


def departure(node, cluster=None, **more):
    said = []
    now = [0.0]
    made = Departure(
        node, cluster, more.pop("wait", 5), more.pop("force", False), said.append,
        lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds),
    )  # fmt: skip
    return made, said


@pytest.fixture
def daemon(node):
    """It listens, and is asked by nobody."""
    real = node.real(DAEMON)
    real.parent.mkdir(parents=True, exist_ok=True)
    program = (
        "import signal, socket; one = socket.socket(socket.AF_UNIX); one.bind('zeropod.sock');"
        "one.listen(); print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=real.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("zeropod:asleep", True),
        ("zeropod:armed", True),
        ("zeropod:off", True),
        ("zeropod:ending", True),
        ("zeropod:frozen", True),
        ("zeropod:run", False),
        ("redis-server", False),
    ],
)
def test_a_container_whose_application_is_away_is_found(node, name, there):
    """By the name that its supervisor shows, and with that of its pod."""
    process(node, 12, name)
    record(node, 12)
    found = sleepers.find(node)

    assert [one.title for one in found] == (["ns/p12/c"] if there else [])


def test_who_only_calls_itself_so_is_nobody(node):
    """Any container can name its processes."""
    process(node, 12, "zeropod:asleep")
    process(node, 13, "zeropod:asleep", started=5)
    record(node, 13)
    assert sleepers.find(node) == []


def test_a_sleeper_without_a_record_is_known_by_its_image(node):
    """A record may be lost; the image is all there is of it."""
    process(node, 12, "zeropod:asleep", group=f"/kubepods/pod1/{ID}")
    (node.root / "var/lib/zeropod/images" / ID).mkdir(parents=True)
    assert [one.title for one in sleepers.find(node)] == [f"container {ID}"]


def test_a_broken_record_is_passed_over(node):
    """It is the uninstallation's last chance to be of use."""
    node.put("/run/zeropod/containers/x.json", "{")
    assert sleepers.find(node) == []


def test_what_sleeps_without_a_daemon_is_not_lost_silently(node):
    """It is named, with the ways on."""
    process(node, 12, "zeropod:asleep")
    record(node, 12)
    with pytest.raises(
        AsleepError, match=r"nobody wakes ns/p12/c; .*zeropod.ctrox.dev/node=true.*--force"
    ):
        departure(node)[0].go()


def test_what_pods_may_keep_without_a_daemon_is_said(node):
    """Labels and requests are the daemon's to take back; a node that never had one has none of them."""
    made, said = departure(node, Labels())
    made.go()
    assert not any("docs/operations.md" in line for line in said)
    (node.root / "run/zeropod").mkdir(parents=True)
    made, said = departure(node, Labels())
    made.go()

    assert "docs/operations.md" in said[-1]


def test_the_label_is_taken_off_so_that_the_daemon_goes(node, daemon, monkeypatch):
    """Its pod belongs to the DaemonSet, which would start it again."""
    monkeypatch.setattr(Departure, "_retire", lambda self: self.say("awake"))
    cluster = Labels(daemon)
    made, said = departure(node, cluster)
    made.go()

    assert not cluster.label
    assert said == [
        "awake",
        "took the label zeropod.ctrox.dev/node off the node: the DaemonSet's pod ends",
    ]


def test_the_label_is_taken_off_where_no_daemon_runs(node):
    """It may be about to be started, or have failed all the time."""
    cluster = Labels()
    departure(node, cluster)[0].go()
    assert not cluster.label


def test_a_daemon_that_listens_no_more_is_still_waited_for(node, daemon, monkeypatch):
    """It finishes what it has begun, with the files that are to go."""
    monkeypatch.setattr(Departure, "_retire", lambda self: node.real(DAEMON).unlink())
    with pytest.raises(InstallError, match="still runs"):
        departure(node)[0].go()


def test_a_daemon_that_does_not_go_stops_it(node, daemon, monkeypatch):
    """Whatever the API server thinks of it."""
    monkeypatch.setattr(Departure, "_retire", lambda self: None)
    made, said = departure(node, Labels(error=ClusterError("we may not", 403)))
    with pytest.raises(InstallError, match="delete the DaemonSet"):
        made.go()
    assert "the label zeropod.ctrox.dev/node was not taken off: we may not" in said


def test_memory_that_is_still_coming_in_is_waited_for(node):
    """Helpers at work for a container are not ended; who waits for work is."""
    helper = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    try:
        node.put("/sys/fs/cgroup/zeropod.slice/cgroup.procs", f"{helper}\n")
        with pytest.raises(AsleepError, match=rf"brought in by sleep \(pid {helper}\)"):
            departure(node)[0].go()
    finally:
        os.kill(helper, 9)
        os.waitpid(helper, 0)


def test_another_pid_namespace_is_told(node):
    """Before anybody is asked: pids would be somebody else's."""
    (node.root / "proc/1/ns/pid").unlink()
    (node.root / "proc/1/ns/pid").symlink_to("/proc/self/ns/mnt")
    with pytest.raises(InstallError, match="hostPID"):
        departure(node)[0].go()


@pytest.mark.parametrize("name", ["criu-zygote", "zp-responder"])
def test_helpers_without_work_are_ended(node, name):
    """Whoever waits for requests has no memory of anybody."""
    group = node.root / "sys/fs/cgroup/zeropod.slice"
    group.mkdir(parents=True)
    script = f"printf {name} >/proc/self/comm; echo ready; read never"
    helper = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with helper:
        assert helper.stdout.readline() == b"ready\n"
        (group / "cgroup.procs").write_text(f"{helper.pid}\n")
        departure(node)[0].go()

        assert helper.wait() == -signal.SIGKILL


UNFIT = [checks.Check("kernel", ok=False, found="5.4.0", remedy="run a kernel of 5.10 or later")]


@pytest.fixture
def unfit(node, monkeypatch):
    """A node that fails a check; what it is told about itself."""
    told = []
    monkeypatch.setattr(checks, "run", lambda *_: UNFIT)
    monkeypatch.setattr(checks, "prepare", lambda *_: [])
    monkeypatch.setattr(main, "Host", lambda _: node)
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    monkeypatch.setattr(main, "_tell", lambda **words: told.append(words))
    return told


def test_a_node_that_is_not_fit_is_not_installed_on(node, unfit, capsys):
    """The last line has what was found and the remedy, and so has the node's condition."""
    assert main.main(["install"]) == main.UNFIT
    last = capsys.readouterr().err.splitlines()[-1]

    assert "kernel: 5.4.0" in last
    assert "run a kernel of 5.10 or later" in last
    (condition,) = unfit
    assert (condition["ready"], condition["reason"]) == (False, "PreflightFailed")
    assert condition["message"] in last
    assert not node.exists("/opt/zeropod")


def test_who_sleeps_on_a_node_that_is_not_fit_any_more_gets_its_daemon(node, unfit, capsys):
    """Nothing is changed, the pod goes on to start, and the condition says what is wrong."""
    process(node, 12, "zeropod:asleep")
    record(node, 12)
    assert main.main(["install"]) == main.DONE

    assert "to wake ns/p12/c" in capsys.readouterr().out
    assert [condition["ready"] for condition in unfit] == [False]
    assert not node.exists("/opt/zeropod")
