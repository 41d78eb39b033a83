"""Which tests run where: the one place that says so."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, Tuple


@dataclass(frozen=True)
class Run:
    """Tests of one folder on one node."""

    name: str
    """Of its result."""

    folder: str = "tests/node"

    kernel: Optional[str] = None
    """Of which Debian release, in a virtual machine; None for this machine's own kernel."""

    containerd: str = "debian"

    zeropod: bool = True
    """Whether plugin and daemon run on it."""

    expression: str = ""
    """Which tests, as pytest's `-m`; "" for all."""

    part: str = ""
    """"2/3" is every third of them, from the second on; "" for all."""

    def options(self) -> List[str]:
        """The same for pytest."""
        chosen = ["-m", self.expression] if self.expression else []
        return [*chosen, *(["--part", self.part] if self.part else [])]


def parts(run: Run, number: int) -> Tuple[Run, ...]:
    """The same tests, dealt out to several nodes."""
    return tuple(
        replace(run, name="%s %d/%d" % (run.name, one, number), part="%d/%d" % (one, number))
        for one in range(1, number + 1)
    )


#: Everything pure.
UNIT = (Run("unit", folder="tests/unit"),)

#: The C programs themselves, in namespaces that the tests make.
SUPERVISOR = (Run("supervisor", folder="tests/supervisor", zeropod=False),)

#: The product, on Debian's containerd, but what lasts for minutes.
NODE = parts(Run("node", expression="not slow"), 3)

#: Those node tests that are about containerd's ways, on the newer one.
BOTH = (Run("node 2.3", containerd="2.3", expression="both"),)

#: The product, installed by its manifests on real Kubernetes.
#: One containerd is edited by the installer and restarted, the other has NRI on and merges files.
CLUSTER = (
    Run("e2e", folder="tests/e2e", zeropod=False),
    Run("e2e 2.3", folder="tests/e2e", containerd="2.3", zeropod=False),
)

_TRIXIE, _BOOKWORM = Run("vm trixie", kernel="trixie"), Run("vm bookworm", kernel="bookworm")

#: On stock kernels, with every change: within 12 minutes where the machines are emulated.
MACHINES = (
    *parts(replace(_TRIXIE, expression="vm or smoke"), 2),
    replace(_BOOKWORM, expression="smoke"),
)

#: On stock kernels, all of them, in some hours.
ALL_MACHINES = (
    *parts(_TRIXIE, 3),
    *parts(_BOOKWORM, 3),
    replace(_TRIXIE, name="vm trixie 2.3", containerd="2.3", expression="both"),
)

#: Seconds after which a run is ended.
LIMIT, MACHINE_LIMIT, ALL_MACHINES_LIMIT = 1500.0, 1200.0, 8 * 3600.0

#: How many nodes or machines at once; one processor is left for those who look on.
AT_ONCE = max(1, (os.cpu_count() or 1) - 1)


def undivided(runs: Sequence[Run]) -> List[Run]:
    """The same without parts, for when somebody has named some tests."""
    whole = [
        replace(run, name=run.name.rpartition(" ")[0], part="") if run.part else run
        for run in runs
    ]
    return list(dict.fromkeys(whole))
