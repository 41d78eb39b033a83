"""The product's image. Standard library only: runs on the host."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dev.lib import archive, bundle, host, inside, process, product, sandbox  # noqa: E402
from dev.lib.environment import ensure  # noqa: E402

#: What an engine that builds images does not give to a RUN.
KEPT_BACK = "-sys_admin,-sys_ptrace,-net_admin,-sys_module,-sys_resource"


def files(tree: Path) -> dict[str, tuple[str, str]]:
    """What is below a directory: mode, and content or target of the link."""
    found = {}
    for folder, directories, names in os.walk(tree):
        for path in (Path(folder, name) for name in [*directories, *names]):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(tree))] = (oct(mode), content)
    return found


#: Imports every module of every package of ours, and what is imported late.
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil
import bcc
from pycriu import rpc_pb2
for name in importlib.metadata.distribution("zeropod").read_text("top_level.txt").split():
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        importlib.import_module(found.name)
"""


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        """Unpacks what dev/image builds."""
        scratch = tempfile.TemporaryDirectory(prefix="zeropod-test-", dir="/var/tmp")
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = Path(scratch.name)
        cls.tree = cls.scratch / "archive"
        cls.environment = ensure()
        layers = archive.layers(cls.environment, cls.scratch)
        cls.tree.mkdir()
        for _, layer in layers.all():
            process.run(["tar", "-xpf", layer, "-C", cls.tree])
        # What the index had when the layer was made; it may have newer ones by now.
        taken = [
            *cls.tree.glob("usr/local/lib/*/dist-packages/*.dist-info"),
            *(layers.pypi.parent / "tools").glob("*.dist-info"),
        ]
        pairs = [path.name[: -len(".dist-info")].rpartition("-") for path in taken]
        lines = [f"{name}=={version}\n" for name, _, version in pairs if name != "zeropod"]
        (cls.scratch / "constraints.txt").write_text("".join(sorted(lines)))

    def test_everything_can_be_imported(self) -> None:
        """Nothing was left out that our modules, or those that they use, import."""
        process.run(["chroot", self.tree, "/usr/bin/python3", "-B", "-c", IMPORT_ALL])
        for name in ("zeropod", "zeropod-checkpointer", "zeropod-installer", "zeropod-nri-plugin"):
            process.run(["chroot", self.tree, "/usr/local/bin/" + name, "--help"])

    def test_two_builds_are_one(self) -> None:
        """dev/image and the stage of Containerfile, without a privilege, make the same files."""
        env, shown = host.index_access()
        env = {**env, "PIP_CACHE_DIR": inside.CELLAR, "PIP_CONSTRAINT": "/out/constraints.txt"}
        criu = self.environment.criu / bundle.WHERE
        readonly = {path: Path(path) for path in [*shown, "/etc/resolv.conf", "/etc/hosts"]}
        readonly.update({"/src": REPOSITORY, "/criu": criu})
        stage = "cd /src && python3 -B -m dev.lib.stage image /criu /out/image"
        process.run(sandbox.command(
            [self.environment.rootfs], ["setpriv", "--bounding-set", KEPT_BACK, "sh", "-ec", stage],
            binds={"/out": self.scratch, inside.CELLAR: self.environment.cache.root / "pip"},
            readonly=readonly, env=env,
        ))  # fmt: skip

        one, other = files(self.tree), files(self.scratch / "image")
        differing = [path for path in {**one, **other} if one.get(path) != other.get(path)]
        assert one
        assert differing == []

    def test_containerfile_says_the_same(self) -> None:
        """Its environment is that of dev/image, and the packages it installs are in the tree of dev/image."""
        text = (REPOSITORY / "Containerfile").read_text().replace("\\\n", " ")
        stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
        wanted = re.search(r"--no-install-recommends (.*)", stages[2])
        environment = re.search(r"^ENV (.*)", stages[3], re.MULTILINE)
        assert wanted
        assert environment
        names = (
            wanted[1].replace('"', "").replace("$(dpkg --print-architecture)", host.architecture())
        )
        installed = self.environment.rootfs / "var/lib/dpkg/info"

        assert environment[1].split() == product.CONFIG["Env"]
        for name in names.split():
            assert list(installed.glob(name + "*.list")), name


if __name__ == "__main__":
    unittest.main()
