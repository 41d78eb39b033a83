"""The one door to the kernel, as far as it opens without root."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from bpf import syscall
from bpf.syscall import FanotifyEvent

METADATA = struct.Struct("=IBBHQii")


def event(mask: int, fd: int, pid: int, *, extra: bytes = b"", version: int = 3) -> bytes:
    """Return an event as the kernel writes it."""
    length = METADATA.size + len(extra)
    return METADATA.pack(length, version, 0, METADATA.size, mask, fd, pid) + extra


def test_events_of_one_read_are_told_apart():
    """Several events in a buffer come out in order, information records behind them skipped."""
    buffer = event(syscall.FAN_OPEN_PERM, 7, 11, extra=b"recordxx") + event(
        syscall.FAN_OPEN_EXEC_PERM, 8, 12
    )
    assert list(syscall.fanotify_events(buffer)) == [
        FanotifyEvent(syscall.FAN_OPEN_PERM, 7, 11),
        FanotifyEvent(syscall.FAN_OPEN_EXEC_PERM, 8, 12),
    ]


@pytest.mark.parametrize(
    "buffer",
    [event(1, 2, 3, version=4), event(1, 2, 3)[:-1], METADATA.pack(0, 3, 0, 24, 1, 2, 3)],
    ids=["other-version", "cut", "no-length"],
)
def test_garbage_is_no_event(buffer: bytes):
    """What is not this version of the structure is refused, and never an endless loop."""
    with pytest.raises(ValueError, match="fanotify"):
        list(syscall.fanotify_events(buffer))


def test_a_response_is_the_descriptor_and_the_verdict():
    """Eight bytes: which event, allowed or denied."""
    assert syscall.fanotify_response(5, syscall.FAN_DENY) == struct.pack("=iI", 5, 2)


def test_a_failed_call_raises_with_its_errno_and_name():
    """The error says which call it was, and carries the kernel's reason."""
    with pytest.raises(OSError, match="setns") as failure:
        syscall.setns(-1, syscall.CLONE_NEWNET)
    assert failure.value.errno == errno.EBADF


def test_the_subject_of_a_failed_call_is_named():
    """A path that is not there appears in the error."""
    with pytest.raises(OSError, match="no-such-pin"):
        syscall.bpf_obj_get("/sys/fs/bpf/no-such-pin")


def test_a_descriptor_is_duplicated_from_a_process(tmp_path: Path):
    """pidfd_getfd gives a second descriptor of the same open file."""
    path = tmp_path / "file"
    path.write_text("content")
    pidfd = os.pidfd_open(os.getpid())
    fd = os.open(path, os.O_RDONLY)
    copy = syscall.pidfd_getfd(pidfd, fd)
    try:
        assert os.readlink(f"/proc/self/fd/{copy}") == str(path)
        assert not os.get_inheritable(copy)
    finally:
        for each in (pidfd, fd, copy):
            os.close(each)


def test_prctl_takes_numbers_and_strings():
    """The process name set through prctl is the one the kernel shows."""
    before = Path("/proc/thread-self/comm").read_text().strip()
    try:
        syscall.prctl(syscall.PR_SET_NAME, b"renamed")
        assert Path("/proc/thread-self/comm").read_text() == "renamed\n"
    finally:
        syscall.prctl(syscall.PR_SET_NAME, before.encode())


def test_a_link_does_not_lead_out_of_a_root(tmp_path: Path):
    """Absolute or with dots: below a root it leads to what is below that, and with NO_SYMLINKS nowhere."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hostname").write_text("inside")
    (tmp_path / "absolute").symlink_to("/etc")
    (tmp_path / "relative").symlink_to("../../../../../../../../etc")
    root = os.open(tmp_path, os.O_PATH)
    no_links = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_SYMLINKS
    try:
        for link in ("absolute", "relative"):
            fd = syscall.openat2(root, f"{link}/hostname", os.O_RDONLY)
            assert not os.get_inheritable(fd)
            assert os.read(fd, 100) == b"inside"
            os.close(fd)
            with pytest.raises(OSError, match=f"openat2.*{link}") as failure:
                syscall.openat2(root, f"{link}/hostname", os.O_RDONLY, resolve=no_links)
            assert failure.value.errno == errno.ELOOP
    finally:
        os.close(root)
