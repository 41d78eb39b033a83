"""Stock Debian kernels for virtual machines: the image, an initramfs that finds the disks, the modules."""

from __future__ import annotations

import lzma
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence

from dev.lib import debian, host, sandbox
from dev.lib.cache import Cache
from dev.lib.errors import DevError
from dev.lib.process import run

#: By Debian release: the kernel of the stable one and that of the one before.
SUITES = ("trixie", "bookworm")

RECIPE = "1"

#: What the initramfs needs until the disks are mounted; the rest the kernel loads from them.
EARLY = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "crc32c_intel", "overlay")

#: Of `drivers/` only these can drive anything in such a machine; of `drivers/net` no folder, which are hardware's.
DRIVERS = ("block", "char", "net", "virtio", "tty")

#: Hardware, all of it.
UNWANTED = ("sound",)

INIT = Path(__file__).with_name("initramfs.sh")


@dataclass(frozen=True)
class Kernel:
    """One kernel, ready to boot."""

    suite: str
    folder: Path

    @property
    def image(self) -> Path:
        """What qemu starts."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """What the kernel starts."""
        return self.folder / "initramfs"

    @property
    def modules(self) -> Path:
        """The content of /usr/lib/modules."""
        return self.folder / "modules"

    @property
    def version(self) -> str:
        """As `uname -r` says it."""
        return next(self.modules.iterdir()).name


def kernel(cache: Cache, rootfs: Path, suite: str) -> Kernel:
    """The newest kernel of a Debian release."""
    inputs = [RECIPE, suite, host.architecture(), rootfs.name, INIT, Path(__file__)]
    return Kernel(
        suite,
        cache.artefact("kernel-" + suite, inputs, lambda target: _make(rootfs, suite, target)),
    )


def _make(rootfs: Path, suite: str, target: Path) -> None:
    with debian.unpacked(suite, ["linux-image-" + host.architecture()]) as tree:
        images = sorted(tree.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            raise DevError("not one kernel in Debian %s, but %s" % (suite, images))
        version = images[0].name.partition("-")[2]
        shutil.copyfile(images[0], target / "vmlinuz")
        found = tree / "usr/lib/modules" / version
        if not found.exists():
            # Before trixie the package's files were not below /usr.
            found = tree / "lib/modules" / version
        _thin(found)
        (target / "modules").mkdir()
        shutil.move(str(found), str(target / "modules" / version))
    run(
        sandbox.command(
            [rootfs], ["depmod", version], binds={"/usr/lib/modules": target / "modules"}
        )
    )
    _initramfs(rootfs, target / "modules" / version, target)


def _thin(modules: Path) -> None:
    """Removes what is for hardware, unpacks the rest: unpacking is slow where the machine is emulated."""
    kernel = modules / "kernel"
    for name in UNWANTED:
        shutil.rmtree(kernel / name, ignore_errors=True)
    for folder in [*(kernel / "drivers").iterdir(), *(kernel / "drivers/net").iterdir()]:
        if folder.is_dir() and (folder.parent.name == "net" or folder.name not in DRIVERS):
            shutil.rmtree(folder)
    for packed in kernel.rglob("*.ko.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    for name in ("build", "source"):
        if (modules / name).is_symlink():
            (modules / name).unlink()


def _initramfs(rootfs: Path, modules: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        tree = Path(scratch)
        for name in ("bin", "dev", "proc", "sys", "new", "modules"):
            (tree / name).mkdir()
        shutil.copy2((rootfs / "bin/busybox").resolve(), tree / "bin/busybox")
        shutil.copyfile(INIT, tree / "init")
        (tree / "init").chmod(0o755)
        for number, path in enumerate(order(modules, EARLY)):
            shutil.copyfile(modules / path, tree / "modules" / ("%02d.ko" % number))
        packed = "cd /in && find . | busybox cpio -o -H newc >/out/initramfs"
        run(sandbox.command([rootfs], ["sh", "-ec", packed], binds={"/in": tree, "/out": target}))


def order(modules: Path, wanted: Sequence[str]) -> List[str]:
    """Files of these modules and of all they need, each after what it needs; built-in ones have none."""
    chains: Dict[str, List[str]] = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, needs = line.partition(":")
        # Listed last is what must be loaded first.
        chains[Path(path).stem.replace("-", "_")] = [*reversed(needs.split()), path]
    found: List[str] = []
    for name in wanted:
        found += [path for path in chains.get(name, ()) if path not in found]
    return found
