"""The node's file system and programs, seen from a container that has its root mounted somewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from installer.errors import InstallError

MAX_LINKS = 40  # as the kernel, see path_resolution(7)

DRAFT = ".{name}.zeropod-new"
"""What a file is called while it is being written: by the next run too, so that a killed one leaves nothing for good."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin:/snap/bin",
    "LANG": "C.UTF-8",
    # systemctl ignores "restart" in a chroot, and exits with 0 (systemd's ENVIRONMENT.md); the older name and the newer.
    "SYSTEMD_IGNORE_CHROOT": "1",
    "SYSTEMD_OFFLINE": "0",
}
"""Of the node's programs: nothing of the image's is meant for them."""


@dataclasses.dataclass(frozen=True)
class Host:
    """A node whose root directory is `root`. All paths that its methods take are the node's."""

    root: Path = Path("/")

    def real(self, path: str) -> Path:
        """Return where a path of the node is for us, its symbolic links followed inside of the node's root.

        The last component need not exist.

        Raises:
            InstallError: the links go in circles.
        """
        pending = list(PurePosixPath(path).parts[1:])
        found: list[str] = []
        links = 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                found = found[:-1]
                continue
            here = self.root.joinpath(*found, part)
            if not here.is_symlink():
                found.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise InstallError(f"{path}: its symbolic links go in circles", "mend them")
            target = PurePosixPath(os.readlink(here))
            if target.is_absolute():
                found = []
            pending = [p for p in target.parts if p not in {"/", "."}] + pending
        return self.root.joinpath(*found)

    def exists(self, path: str) -> bool:
        """Say whether something is there."""
        return self.real(path).exists()

    def read(self, path: str) -> str | None:
        """Return a text file, None if there is none.

        Raises:
            InstallError: it cannot be read, or is no text.
        """
        try:
            return self.real(path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InstallError(f"{path} cannot be read: {error}", "look at that file") from error

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Replace a text file in one step; mode and owner stay, a new one has `mode`.

        Raises:
            InstallError: it cannot be written.
        """
        real = self.real(path)
        draft = real.with_name(DRAFT.format(name=real.name))
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
            known = real.stat() if real.exists() else None
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as new:
                    new.write(text)
                    new.flush()
                    if known:
                        os.fchown(new.fileno(), known.st_uid, known.st_gid)
                    os.fchmod(new.fileno(), stat.S_IMODE(known.st_mode) if known else mode)
                    os.fsync(new.fileno())
                draft.replace(real)
            finally:
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)
            sync(real.parent)
        except OSError as error:
            raise InstallError(
                f"{path} cannot be written ({error.strerror})",
                "this node's configuration is kept elsewhere or is read-only: enable NRI and add the runtime there "
                "(docs/install.md, by hand)",
            ) from error

    def mode(self, path: str) -> int:
        """Return a file's permissions."""
        return stat.S_IMODE(self.real(path).stat().st_mode)

    def missing(self, path: str) -> list[str]:
        """Return the directories above a path that are not there yet, the outermost first."""
        parents = list(PurePosixPath(path).parents)[:-1]
        return [str(parent) for parent in reversed(parents) if not self.exists(str(parent))]

    def mounted(self, path: str, kind: str) -> bool:
        """Say whether a file system of some kind is at a path of the node.

        Read from the node's init, whose mounts are the node's. Where that is not for us to read, from our own: they need
        not have what was mounted after our start.
        """
        try:
            table = self.real("/proc/1/mountinfo").read_text(encoding="utf-8")
            fields = [line.split() for line in table.splitlines()]
            return any(one[4] == path and one[one.index("-") + 1] == kind for one in fields)
        except OSError:
            pass
        try:
            number = os.stat(self.real(path)).st_dev
        except OSError:
            return False
        wanted = f"{os.major(number)}:{os.minor(number)}"
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        fields = [line.split() for line in lines]
        return any(one[2] == wanted and one[one.index("-") + 1] == kind for one in fields)

    @contextlib.contextmanager
    def locked(self, directory: str) -> Iterator[None]:
        """Be the only one at work: two pods of ours may meet in an upgrade, or a person and a pod.

        Raises:
            InstallError: somebody else is.
        """
        real = self.real(directory)
        if not real.is_dir():
            yield
            return
        descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InstallError(
                    "another installer is at work on this node", "wait for it, then run this again"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is fine.

        Raises:
            InstallError: it cannot be removed.
        """
        real = self.real(path)
        with contextlib.suppress(OSError):
            real.with_name(DRAFT.format(name=real.name)).unlink(missing_ok=True)
        try:
            real.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise InstallError(
                f"{path} cannot be removed ({error.strerror})", "remove it yourself"
            ) from error

    def remove_directory(self, path: str) -> None:
        """Remove a directory if nothing is in it."""
        with contextlib.suppress(OSError):
            self.real(path).rmdir()

    def listed(self, path: str, suffix: str) -> list[str]:
        """Return what in a directory ends so, by name."""
        try:
            names = sorted(os.listdir(self.real(path))) if path else []
        except OSError:
            return []
        return [f"{path}/{name}" for name in names if name.endswith(suffix)]

    def run(self, *argv: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a program of the node's, in its root; its output is captured.

        Raises:
            InstallError: it is not there, or does not end.
        """
        try:
            return subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                cwd="/",
                preexec_fn=self._enter,  # there is no other thread
            )
        except FileNotFoundError as error:
            raise InstallError(
                f"{argv[0]} cannot be run: {error}", "install it on the node"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(
                f"{' '.join(argv)} did not end within {timeout:.0f} s", "look at the node"
            ) from error

    def _enter(self) -> None:
        if self.root != Path("/"):
            os.chroot(self.root)
            os.chdir("/")

    def answers(self, path: str) -> bool:
        """Say whether somebody listens on a unix socket of the node."""
        return self.listener(path) is not None

    def listener(self, path: str) -> int | None:
        """Return the pid of who listens on a unix socket of the node, None if nobody does; 0 if it is not for us to see."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                # By descriptor: the name of a socket has at most 107 bytes, a mounted root adds to it.
                directory = os.open(self.real(path).parent, os.O_PATH)
            except OSError:
                return None
            try:
                probe.connect(f"/proc/self/fd/{directory}/{PurePosixPath(path).name}")
                known = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                return int.from_bytes(known[:4], sys.byteorder)
            except OSError:
                return None
            finally:
                os.close(directory)


def sync(directory: Path) -> None:
    """Have what was renamed in a directory survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
