"""What `dev/` needs from the machine it runs on, and what it takes over from it."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Tuple

from dev.lib.errors import DevError
from dev.lib.process import run

log = logging.getLogger("dev")

REPOSITORY = Path(__file__).resolve().parents[2]

#: Public mirror, for hosts that are not Debian themselves.
DEBIAN = "http://deb.debian.org/debian"

#: Variables by which a person says how to reach package indexes from here.
PASSED_ON = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_", "REQUESTS_CA_BUNDLE",
             "CURL_CA_BUNDLE")  # fmt: skip

#: Where the same is said in files.
PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")


#: Debian packages that something here needs, each with a file by which it is known to be installed.
PROOFS = {
    "mmdebstrap": Path("/usr/bin/mmdebstrap"),
    "debian-archive-keyring": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "e2fsprogs": Path("/usr/sbin/mkfs.ext4"),
    "qemu-system-x86": Path("/usr/bin/qemu-system-x86_64"),
}


def require_root() -> None:
    """Raises DevError unless we are root: namespaces, mounts and containerd need it."""
    if os.geteuid() != 0:
        raise DevError("this needs root. Run: sudo -E %s" % " ".join(sys.argv))


def require_packages(*names: str) -> None:
    """Installs by apt those of these packages that are missing."""
    missing = [name for name in names if not PROOFS[name].exists()]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        raise DevError(
            "this needs %s and there is no apt here to install them; dev/ works on Debian and "
            "Ubuntu. On those: %s" % (" and ".join(missing), " ".join(command))
        )
    log.info("installing %s by apt", ", ".join(missing))
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        run(["apt-get", "update"], env=env)
        run(command, env=env)
    except DevError as error:
        raise DevError("%s\nRun: apt-get update && %s" % (error, " ".join(command))) from error


def mirror() -> str:
    """The Debian mirror this machine's apt uses, or the public one."""
    if not shutil.which("apt-get"):
        return DEBIAN
    listing = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)",
                   "Created-By: Packages"])  # fmt: skip
    for line in listing.splitlines():
        origin, _, address = line.partition(" ")
        if origin == "Debian" and address.rstrip("/").endswith("/debian"):
            return address.rstrip("/")
    return DEBIAN


def architecture() -> str:
    """Debian's name of this machine's architecture."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = platform.machine()
    if machine not in names:
        raise DevError("no support for %s; known: %s" % (machine, ", ".join(names)))
    return names[machine]


def index_access() -> Tuple[Dict[str, str], List[str]]:
    """How to reach package indexes from here: variables to set and files to show, same path."""
    env = {k: v for k, v in os.environ.items() if k.upper().startswith(PASSED_ON)}
    paths = [value for value in env.values() if value.startswith("/") and Path(value).exists()]
    paths += [str(Path(p).expanduser()) for p in PIP_FILES if Path(p).expanduser().exists()]
    return env, sorted(set(paths))
