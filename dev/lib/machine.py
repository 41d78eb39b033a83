"""A virtual machine with a stock kernel, from its start to its end: qemu, disks, and what comes out of it.

The machine has no network. It reads the checkout and the cache's layers, writes to a disk without a
name, and hands back what it puts into its `out` folder. It dies with this process.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from dev import patience
from dev.lib import containerd, disks, host, process
from dev.lib.environment import Environment
from dev.lib.errors import DevError
from dev.lib.kernels import Kernel

QEMU = "qemu-system-x86_64"

#: What has to be installed.
TOOLS = ("qemu-system-x86", "e2fsprogs")

MEMORY = "4G"


@dataclass(frozen=True)
class Speed:
    """How the processor is made."""

    accelerator: str
    processors: int
    slow: float
    """How many times slower than this machine it may be, for everything that waits."""


BY_HARDWARE = Speed("kvm", 2, 1.0)

#: One processor: where one patches the kernel's code (static keys), another one of qemu 7.2 may still run the
#: breakpoint that was there meanwhile, and the kernel dies of it ("int3: 0000").
EMULATED = Speed("tcg", 1, 10.0)

#: What looks like a variable becomes one of the first program's environment.
COMMAND_LINE = "console=ttyS0 quiet panic=-1 %s=%g"


@dataclass
class Machine:
    """One machine."""

    environment: Environment
    kernel: Kernel
    variant: str = "debian"
    """Which containerd is on its node."""

    name: str = "vm"
    """By which its lines are known."""

    def run(self, task: Dict[str, Any], limit: float) -> Any:
        """Boots it, has `dev/lib/guest.py` do a task, and returns what that came to.

        Args:
            task: see `guest.TASKS`.
            limit: seconds after which it is ended.

        Raises:
            DevError: it did not come to an end of its own.
        """
        out = Path(tempfile.mkdtemp(prefix="zeropod-dev-", dir="/var/tmp"))
        scratch = disks.scratch()
        try:
            plan = dict(task, variant=self.variant, project=self.environment.project)
            (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
            # The kernel ends it when we end, however that comes about.
            words = ["setpriv", "--pdeathsig", "KILL", "--", *self._command(out, scratch)]
            status, lines = process.follow(words, self.name, limit=limit, pass_fds=[scratch])
            try:
                return json.loads((out / "result.json").read_text(encoding="utf-8"))
            except OSError as error:
                raise DevError(self._post_mortem(out, status, lines)) from error
        finally:
            os.close(scratch)
            shutil.rmtree(out)

    def _disks(self) -> Dict[str, Path]:
        """What is mounted below /disks in the machine."""
        environment = self.environment
        found: Dict[str, Optional[Path]] = {
            "rootfs": environment.rootfs,
            "venv": environment.venv,
            "criu": environment.criu,
            "supervisor": environment.supervisor,
            "images": environment.images(),
            "app-images": environment.app_images(),
            "containerd": containerd.layer(environment.cache, self.variant),
        }
        there = {name: path for name, path in found.items() if path}
        made = {name: disks.image(environment.cache, name, path) for name, path in there.items()}
        made["modules"] = disks.image(
            environment.cache, "modules-" + self.kernel.suite, self.kernel.modules
        )
        return made

    def _command(self, out: Path, scratch: int) -> List[str]:
        speed = BY_HARDWARE if accelerated() else EMULATED
        words = [QEMU, "-machine", "q35", "-accel", speed.accelerator, "-cpu", "max", "-smp", str(speed.processors), "-m", MEMORY,
                 "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                 "-serial", "file:%s" % (out / "console.log"), "-device", "virtio-rng-pci",
                 "-kernel", str(self.kernel.image), "-initrd", str(self.kernel.initramfs),
                 "-append", COMMAND_LINE % (patience.VARIABLE, speed.slow),
                 "-device", "virtio-serial-pci", "-chardev", "file,id=stream,path=/proc/self/fd/1",
                 "-device", "virtserialport,chardev=stream,name=stream"]  # fmt: skip
        for name, path in self._disks().items():
            words += _drive(name, "file=%s,readonly=on" % path)
        words += _drive("scratch", "file=/proc/self/fd/%d,cache=unsafe" % scratch)
        for name, path, mode in (("src", host.REPOSITORY, ",readonly=on"), ("out", out, "")):
            words += ["-fsdev", "local,id=%s,path=%s,security_model=none%s" % (name, path, mode),
                      "-device", "virtio-9p-pci,fsdev=%s,mount_tag=%s" % (name, name)]  # fmt: skip
        return words

    def _post_mortem(self, out: Path, status: int, lines: List[str]) -> str:
        try:
            console = (out / "console.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            console = ""
        tail = "\n  ".join([*lines[-5:], *console.splitlines()[-30:]])
        return "the machine (%s) ended without a result, exit status %d:\n  %s" % (
            self.kernel.version, status, tail)  # fmt: skip


def _drive(name: str, options: str) -> List[str]:
    return ["-drive", "if=none,format=raw,id=%s,%s" % (name, options),
            "-device", "virtio-blk-pci,drive=%s,serial=%s" % (name, name)]  # fmt: skip


def accelerated() -> bool:
    """Whether the processor runs stock kernels for us; some offer /dev/kvm for prepared kernels only."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)
