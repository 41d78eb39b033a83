"""Files and watches of applications, over a sleep; volumes that others change meanwhile."""

from __future__ import annotations

import concurrent.futures
import fcntl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.volumes import NEW, OLD, WATCH, atomic_writer, volume

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]


# --- inotify ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("/data/made/later", id="overlay-upper"),
        pytest.param("/usr/lib/python3.13/json", id="overlay-lower"),
        pytest.param("/", id="root"),
        pytest.param("/dev/shm", id="tmpfs"),
        pytest.param("/vol", id="volume"),
    ],
)
def test_inotify(pods: Pods, tmp_path: Path, folder: str) -> None:
    """A directory is watched on after a sleep, on the container's own root (overlayfs) as on a volume."""
    setup = f"{WATCH}\nos.makedirs({folder!r}, exist_ok=True)\nit = watch({folder!r})"
    one = sleepers.python(pods, setup, mounts=[volume(tmp_path)])
    with one.talk() as talk:
        for number in range(3):
            one.sleep()
            assert talk.ask(f"open({folder!r} + '/new{number}', 'w').close()") is None
            assert talk.ask("happened(it)") == [f"new{number}"]
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


def test_inotify_on_files_that_are_renamed_and_written(pods: Pods) -> None:
    """A watch follows its file to another name, and one on a file of the image survives the file's copy-up."""
    setup = f"""{WATCH}
open('/data/before', 'w').close()
moved = watch('/data/before', 0x2)
image = watch('/etc/nsswitch.conf', 0x2)
"""
    one = sleepers.python(pods, setup)
    for name in ("before", "after"):
        one.sleep()
        one.ask(f"open('/data/{name}', 'a').write('x')")
        assert one.ask("happened(moved)") == [""]
        one.ask("open('/etc/nsswitch.conf', 'a').write('x')")
        assert one.ask("happened(image)") == [""]
        if name == "before":
            one.ask("os.rename('/data/before', '/data/after')")


def test_inotify_on_what_was_deleted(pods: Pods) -> None:
    """A watch on a file that was deleted while it is open has no path any more: refused, until it is closed."""
    setup = f"{WATCH}\nfile = open('/data/f', 'w')\nit = watch('/data/f')\nos.unlink('/data/f')"
    one = sleepers.python(pods, setup)
    with pytest.raises(TtrpcError, match="CHOKIDAR_USEPOLLING"):
        one.sleep()
    assert one.ask("os.close(it)") is None
    one.sleep()
    assert one.ask("1") == 1


def test_inotify_events_that_nobody_has_read(pods: Pods) -> None:
    """They are not lost: the sleep is refused until they are read."""
    one = sleepers.python(pods, f"{WATCH}\nit = watch('/data')")
    one.ask("open('/data/new', 'w').close()")
    with pytest.raises(TtrpcError, match="inotify events"):
        one.sleep()
    assert one.ask("happened(it)") == ["new"]
    one.sleep()
    assert one.ask("happened(it)") == []


# --- configmaps, secrets, tokens ------------------------------------------------------------------------------------------


def test_a_configmap_is_swapped_asleep(pods: Pods, tmp_path: Path) -> None:
    """What the kubelet published during the sleep is read after it; a watch on the volume tells of the next swap."""
    atomic_writer(tmp_path, OLD, "old")
    one = sleepers.python(pods, f"{WATCH}\nit = watch('/vol')", mounts=[volume(tmp_path)])
    assert one.ask("open('/vol/key').read()") == "old"
    one.sleep()
    atomic_writer(tmp_path, NEW, "new")
    assert one.ask("open('/vol/key').read()") == "new"
    atomic_writer(tmp_path, OLD, "newer")
    assert "..data" in one.ask("happened(it)")
    one.sleep()
    assert one.ask("open('/vol/key').read()") == "newer"


@pytest.mark.parametrize(
    ("setup", "over"),
    [
        pytest.param("it = open('/vol/key')", "it.close()", id="open"),
        pytest.param("os.chdir('/vol/..data')", "os.chdir('/')", id="directory"),
        pytest.param(
            "import mmap\nfile = open('/vol/key')\nit = mmap.mmap(file.fileno(), 3, prot=1)\nfile.close()",
            "it.close()",
            id="mapped",
        ),
        pytest.param("it = watch('/vol/key')", "os.close(it)", id="file-watched"),
        pytest.param("it = watch('/vol/..data')", "os.close(it)", id="directory-watched"),
    ],
)
def test_a_configmap_in_use(pods: Pods, tmp_path: Path, setup: str, over: str) -> None:
    """A file that the kubelet would replace keeps awake as long as it is in use; the reason names it."""
    atomic_writer(tmp_path, OLD, "old")
    one = sleepers.python(pods, f"{WATCH}\n{setup}", mounts=[volume(tmp_path, readonly=True)])
    with pytest.raises(TtrpcError, match=f"{OLD}.*kubelet replaces"):
        one.sleep()
    assert "close such files after reading" in one.why()
    one.ask(over)
    assert one.sleep()["state"] == "ASLEEP"
    atomic_writer(tmp_path, NEW, "new")
    assert one.ask("open('/vol/key').read()") == "new"


# --- volumes ----------------------------------------------------------------------------------------------------------


def grow(path: Path) -> None:
    """As another writer does."""
    with path.open("a") as file:
        file.write(" and more")


def replace(path: Path) -> None:
    """As editors and configuration tools do."""
    (path.parent / "other").write_text("other text")
    (path.parent / "other").rename(path)


def rotate(path: Path) -> None:
    """As a log is rotated; nobody makes it anew."""
    path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize(
    ("mode", "change", "look", "wanted"),
    [
        pytest.param("r", grow, "it.read()", "text and more", id="grown"),
        pytest.param("r+", grow, "it.read()", "text and more", id="grown-read-write"),
        pytest.param("r", lambda path: path.write_text(""), "it.read()", "", id="truncated"),
        pytest.param("r", lambda path: path.chmod(0o600), "it.read()", "text", id="mode"),
        # Awake it would have gone on with the old one: asleep nobody keeps it.
        pytest.param("r", replace, "it.read()", "other text", id="replaced"),
        pytest.param("a", grow, "it.write('!') and it.tell()", 14, id="log-grown"),
        pytest.param("a", rotate, "it.write('!') and it.tell()", 1, id="log-rotated"),
    ],
)
def test_files_of_a_volume_change_asleep(
    pods: Pods,
    tmp_path: Path,
    mode: str,
    change: Callable[[Path], None],
    look: str,
    wanted: object,
) -> None:
    """An open file on a volume may be changed by others, as awake; a log that was rotated is begun anew."""
    (tmp_path / "file").write_text("text")
    one = sleepers.python(pods, f"it = open('/vol/file', {mode!r})", mounts=[volume(tmp_path)])
    one.sleep()
    change(tmp_path / "file")
    assert one.ask(look) == wanted
    one.sleep()
    assert one.ask("1") == 1
    one.unharmed()


@pytest.mark.timeout(90)
def test_a_file_of_a_volume_is_deleted_asleep(pods: Pods, tmp_path: Path) -> None:
    """A file that can be read and is gone cannot be made up: the wake fails, says so, and works once it is back."""
    (tmp_path / "file").write_text("text")
    one = sleepers.python(pods, "it = open('/vol/file')", mounts=[volume(tmp_path)])
    one.sleep()
    (tmp_path / "file").rename(tmp_path / "away")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(one.ask, "it.read()", timeout=60)
        cri.until(lambda: "vol/file" in one.why(), 30)
        (tmp_path / "away").rename(tmp_path / "file")
        assert answer.result() == "text"
    one.unharmed()


def test_a_lock_that_another_has_taken(pods: Pods, tmp_path: Path) -> None:
    """Asleep nobody has its locks on a volume; the wake waits for who has taken one, so that never two have it."""
    (tmp_path / "lock").touch()
    setup = "import fcntl\nit = open('/vol/lock'); fcntl.flock(it, fcntl.LOCK_EX)"
    one = sleepers.python(pods, setup, mounts=[volume(tmp_path)])
    one.sleep()
    with (
        (tmp_path / "lock").open() as lock,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        answer = pool.submit(one.ask, "1", timeout=50)
        time.sleep(2)
        assert not answer.done()
        assert one.state == "WAKING"
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert answer.result() == 1
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    one.unharmed()


# --- deleted files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "look", "wanted"),
    [
        pytest.param(
            "it = open('/data/f', 'w+'); it.write('text'); it.flush(); os.unlink('/data/f')",
            "it.seek(0) or [it.read(), os.listdir('/data')]", ["text", []], id="upper",
        ),
        pytest.param(
            "it = open('/etc/nsswitch.conf'); os.unlink('/etc/nsswitch.conf')",
            "[it.read()[:6], os.path.exists('/etc/nsswitch.conf')]", ["hosts:", False], id="of the image",
        ),
        pytest.param(
            "it = open('/data/f', 'w+'); it.write('x' * (20 << 20)); it.flush(); os.unlink('/data/f')",
            "it.seek(0) or len(it.read())", 20 << 20, id="20 MB",
        ),
        pytest.param(
            "it = open('/data/f', 'w+'); os.link('/data/f', '/data/g'); os.unlink('/data/f')",
            "it.write('x') and it.flush() or [open('/data/g').read(), os.listdir('/data')]", ["x", ["g"]],
            id="other name",
        ),
        pytest.param(
            "import mmap; f = open('/data/f', 'wb+'); f.write(b'text'); f.flush(); it = mmap.mmap(f.fileno(), 4)\n"
            "f.close(); os.unlink('/data/f')",
            "it[:].decode()", "text", id="mapped",
        ),
        pytest.param(
            "import shutil; shutil.copy('/usr/bin/busybox', '/data/sleep'); "
            "it = subprocess.Popen(['/data/sleep', '1000']); time.sleep(0.2); os.unlink('/data/sleep')",
            "[it.poll(), os.path.exists('/data/sleep')]", [None, False], id="program",
        ),
        pytest.param(
            "os.mkdir('/data/d'); os.chdir('/data/d'); os.rmdir('/data/d')",
            "os.readlink('/proc/self/cwd')", "/data/d (deleted)", id="working directory",
        ),
    ],
)  # fmt: skip
def test_deleted_while_open(pods: Pods, setup: str, look: str, wanted: object) -> None:
    """What was deleted while it is in use is as it was after two sleeps, and still deleted."""
    one = sleepers.python(pods, setup)
    one.sleep()
    one.ask("1")
    one.sleep()
    assert one.ask(look) == wanted
    one.unharmed()
