"""One request to one criu worker: its options, its notifications, its answer, in time.

The protocol is images/rpc.proto over a SOCK_SEQPACKET socket. The message classes come from Debian's python3-pycriu;
its client is not used, since it can neither pass descriptors nor answer notifications.
"""

from __future__ import annotations

import functools
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from checkpointer.errors import CriuError, Missing

PARENT = "pre"  # of an image: where the images of a pre-dump are in it
IMAGES = "/proc/self/fd/4"  # where a worker finds the image directory (zygote request byte 'd')
FIRST_INHERITED = 5  # and the inherited descriptors, in order ('i')
GHOST_LIMIT = 64 << 20  # bytes of a deleted file that is open; criu's default is 1 MiB
_NETWORK_LOCK_SKIP = 3
_FREEZE_SECONDS = 10
_WARNINGS = 2
_BEAT = 5.0  # seconds
_MAX_MESSAGE = 1 << 20
_TELLING = re.compile(r"^(?:\([\d.]+\))?\s*(?:\d+: )?(Error|Warn) ")  # time from log level 3 on
_TOLD = 12

Notify = Callable[[str], bool]


@functools.cache
def rpc() -> Any:
    """Import the classes of criu's RPC; pycriu appends a directory of general names to sys.path."""
    path = list(sys.path)
    try:
        from pycriu import rpc_pb2  # noqa: PLC0415 - costs memory, and only a daemon needs it
    except ImportError as error:
        raise Missing("pycriu is missing: install Debian's python3-pycriu") from error
    finally:
        sys.path[:] = path
    return rpc_pb2


def _request(kind: int, log: str) -> Any:
    """Return a request with the options that dump and restore have in common."""
    request = rpc().criu_req(type=kind)
    opts = request.opts
    opts.images_dir_fd = -1  # by name: criu would look the number up in *our* process
    opts.images_dir = IMAGES
    opts.log_file = log
    opts.log_level = _WARNINGS
    opts.tcp_established = True
    opts.network_lock = _NETWORK_LOCK_SKIP  # the redirector holds the network
    opts.ext_unix_sk = True
    opts.file_locks = True
    opts.link_remap = True
    opts.ghost_limit = GHOST_LIMIT
    opts.manage_cgroups = True
    opts.manage_cgroups_mode = rpc().IGNORE
    opts.notify_scripts = True
    return request


def dump_request(vpid: int, watched: Iterable[str] = (), *, parent: bool = False) -> Any:
    """Return the request to dump the tree below `vpid`, a pid inside the container.

    Args:
        vpid: The root of the tree.
        watched: Paths of watched files that criu cannot find by itself.
        parent: Whether what has not changed since a pre-dump is left to its images, in PARENT.
    """
    request = _request(rpc().DUMP, "dump.log")
    request.opts.pid = vpid
    request.opts.tcp_skip_in_flight = True
    request.opts.timeout = _FREEZE_SECONDS
    request.opts.irmap_scan_paths.extend(watched)
    if parent:
        request.opts.parent_img = PARENT
        request.opts.track_mem = True
    return request


def pre_dump_request(vpid: int) -> Any:
    """Return the request to write the memory of the tree below `vpid`, which runs on, and to note what changes."""
    request = _request(rpc().SINGLE_PRE_DUMP, "pre-dump.log")
    request.opts.pid = vpid
    request.opts.track_mem = True
    request.opts.timeout = _FREEZE_SECONDS
    return request


def features_request() -> Any:
    """Return the request to see whether the kernel can tell which memory changes."""
    request = rpc().criu_req(type=rpc().FEATURE_CHECK)
    request.features.mem_track = True
    return request


def restore_request(inherited: list[str], *, lazy: bool) -> Any:
    """Return the request to restore; `inherited` are the keys of the descriptors from 5 on."""
    request = _request(rpc().RESTORE, "restore.log")
    request.opts.lazy_pages = lazy
    # Permissions of a file on a volume may have been changed meanwhile; what is open stays open.
    request.opts.skip_file_rwx_check = True
    for number, key in enumerate(inherited):
        request.opts.inherit_fd.add(key=key, fd=FIRST_INHERITED + number)
    return request


def check_request() -> Any:
    """Return the request to see whether criu works here at all."""
    request = rpc().criu_req(type=rpc().CHECK)
    request.opts.images_dir_fd = -1
    request.opts.images_dir = IMAGES
    request.opts.log_file = "check.log"
    request.opts.log_level = _WARNINGS
    return request


class Session:
    """The conversation with one worker; it ends when the socket is closed."""

    def __init__(
        self,
        channel: socket.socket,
        pidfd: int,
        deadline: float,
        beat: Callable[[], None] | None = None,
    ) -> None:
        """Take over a worker's channel.

        Args:
            channel: The worker's rpc socket.
            pidfd: The worker; its end is not always the end of the socket, which half-restored tasks may share.
            deadline: Of the whole conversation, as time.monotonic().
            beat: Called every few seconds while criu works.
        """
        self._channel = channel
        self._deadline = deadline
        self._beat = beat
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._poll.register(pidfd, select.POLLIN)

    def call(self, request: Any, notify: Notify) -> Any:
        """Send a request, answer the notifications, return the answer.

        Args:
            request: A criu_req.
            notify: Called with the name of each notification; False refuses to go on.

        Raises:
            CriuError: criu refused (errno), went away (gone) or took too long (hung).
        """
        self._send(request)
        while True:
            answer = rpc().criu_resp()
            answer.ParseFromString(self._receive())
            if answer.type != rpc().NOTIFY:
                break
            agreed = notify(answer.notify.script)
            self._send(rpc().criu_req(type=rpc().NOTIFY, notify_success=agreed))
        if not answer.success:
            said = answer.cr_errmsg.strip().splitlines()
            message = said[-1] if said else f"criu failed (error {answer.cr_errno})"
            raise CriuError(message, errno=answer.cr_errno)
        return answer

    def _send(self, message: Any) -> None:
        try:
            self._channel.send(message.SerializeToString())
        except (BrokenPipeError, ConnectionResetError) as error:
            raise CriuError("criu ended without an answer", gone=True) from error

    def _receive(self) -> bytes:
        while not self._event():
            if time.monotonic() > self._deadline:
                raise CriuError("criu did not answer in time", hung=True)
            if self._beat is not None:
                self._beat()
        try:
            data = self._channel.recv(_MAX_MESSAGE, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            data = b""
        if not data:
            raise CriuError("criu ended without an answer", gone=True)
        return data

    def _event(self) -> bool:
        """Wait for a message or the end of criu; False when only time has passed."""
        left = self._deadline - time.monotonic()
        return bool(self._poll.poll(1000 * max(0.0, min(left, _BEAT))))


def telling(log: Path) -> tuple[str, ...]:
    """Return the lines of a criu log that say why it failed."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if _TELLING.match(line))[-_TOLD:]
