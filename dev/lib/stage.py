"""What the stages of Containerfile run: the same recipes on a Debian system that is "/" itself.

`python3 -m dev.lib.stage criu DIR`: criu's bundle, on the release that has it.
`python3 -m dev.lib.stage image CRIU DIR`: everything else; CRIU is where the other stage has put its bundle.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dev.lib import bundle, host, product, program, rootfs

HERE = Path("/")


def main() -> int:
    """0 when the directory is filled."""
    kind, *names = sys.argv[1:]
    *_, target = paths = [Path(name).resolve() for name in names]
    target.mkdir(parents=True)
    if kind == "criu":
        bundle.collect(HERE, target)
        return 0
    project = rootfs.project(HERE)
    with tempfile.TemporaryDirectory() as tools:
        product.base(HERE, target, sorted((host.REPOSITORY / "bpf").glob("*.[ch]")))
        product.dependencies(HERE, project, target, Path(tools))
        product.product(HERE, project, Path(tools), paths[0], target)
    return 0


if __name__ == "__main__":
    program.run(main)
