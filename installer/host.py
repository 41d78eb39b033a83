"""The node's file system and programs, seen from a container that has its root mounted somewhere."""

from __future__ import annotations

import dataclasses
import os
import socket
import stat
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

from installer.errors import InstallError

MAX_LINKS = 40  # as the kernel, see path_resolution(7)


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
        """Return a text file, None if there is none."""
        try:
            return self.real(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def write(self, path: str, text: str) -> None:
        """Replace a text file in one step; mode and owner stay, a new one is 0644.

        Raises:
            InstallError: it cannot be written.
        """
        real = self.real(path)
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
            known = real.stat() if real.exists() else None
            descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as new:
                    new.write(text)
                    new.flush()
                    os.fsync(new.fileno())
                    os.fchmod(new.fileno(), stat.S_IMODE(known.st_mode) if known else 0o644)
                    if known:
                        os.fchown(new.fileno(), known.st_uid, known.st_gid)
                os.replace(name, real)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise InstallError(
                f"{path} cannot be written ({error.strerror})",
                "this node's configuration is kept elsewhere or is read-only: enable NRI and add the runtime there "
                "(docs/install.md, by hand)",
            ) from error

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is fine."""
        self.real(path).unlink(missing_ok=True)

    def run(self, *argv: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a program of the node's, in its root; its output is captured.

        Raises:
            InstallError: it is not there, or does not end.
        """
        inside = ["chroot", str(self.root), *argv] if self.root != Path("/") else list(argv)
        try:
            return subprocess.run(
                inside, capture_output=True, text=True, timeout=timeout, check=False
            )
        except FileNotFoundError as error:
            raise InstallError(
                f"{argv[0]} cannot be run: {error}", "install it on the node"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(
                f"{' '.join(argv)} did not end within {timeout:.0f} s", "look at the node"
            ) from error

    def answers(self, path: str) -> bool:
        """Say whether somebody listens on a unix socket of the node."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                # By descriptor: the name of a socket has at most 107 bytes, a mounted root adds to it.
                directory = os.open(self.real(path).parent, os.O_PATH)
            except OSError:
                return False
            try:
                probe.connect(f"/proc/self/fd/{directory}/{PurePosixPath(path).name}")
            except OSError:
                return False
            finally:
                os.close(directory)
        return True
