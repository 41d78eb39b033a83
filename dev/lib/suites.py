"""The test suites, each where it can run: in the Debian tree, in a node, on the host."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Mapping, Optional, Sequence

from dev.lib import containerd, host, kernels, machine, process, report, sandbox
from dev.lib.environment import Environment
from dev.lib.errors import DevError
from dev.lib.node import Node
from dev.lib.report import Result

log = logging.getLogger("dev")

BIN = "/opt/zeropod/venv/bin/"

#: Nobody: tests of pure things need no privileges.
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

#: Seconds after which a suite is ended.
LIMIT = 1500

#: Why the second containerd is left out where it cannot be built.
NO_GO = "containerd 2.3 is built from source and there is no Go on this machine"


@dataclass(frozen=True)
class Run:
    """Node tests in one virtual machine."""

    kernel: str
    """Of which Debian release."""

    containerd: str = "debian"

    expression: str = ""
    """Which tests, as pytest's `-m`; "" for all."""

    @property
    def name(self) -> str:
        """Of its result."""
        return "vm %s%s" % (
            self.kernel,
            "" if self.containerd == "debian" else " " + self.containerd,
        )


#: What the vm tier runs: what is checked with every change, within 12 minutes of an emulated machine,
MACHINES = (Run("trixie", expression="vm or smoke"), Run("bookworm", expression="smoke"))

#: and what `--all` runs, in some hours.
ALL_MACHINES = (Run("trixie"), Run("bookworm"), Run("trixie", "2.3", "both"))

#: Seconds for each of them.
MACHINE_LIMIT, ALL_MACHINES_LIMIT = 1200.0, 8 * 3600.0


class Suites:
    """All suites on one environment."""

    def __init__(
        self,
        environment: Environment,
        arguments: Sequence[str],
        *,
        limit: float = LIMIT,
        kernel: Optional[str] = None,
        everything: bool = False,
    ) -> None:
        """Prepares nothing yet.

        Args:
            environment: what to run them in.
            arguments: passed to every pytest.
            limit: seconds after which a suite is ended.
            kernel: the only one for the vm tier.
            everything: the vm tier runs all node tests.
        """
        self.environment = environment
        self.arguments = list(arguments)
        self.limit = limit
        self.kernel = kernel
        self.everything = everything
        self.tiers: dict[str, Callable[[], list[Result]]] = {
            "lint": self.lint,
            "unit": self.unit,
            "supervisor": self.supervisor,
            "node": self.node,
            "both": self.both,
            "host": self.host,
            "vm": self.vm,
        }

    def run(self, tier: str) -> List[Result]:
        """Runs one tier and says how it went; an error in running it is a failure of it."""
        log.info("\n=== %s", tier)
        begun = time.monotonic()
        try:
            results = self.tiers[tier]()
        except DevError as error:
            results = [Result(tier, problem=str(error))]
        for result in results:
            result.seconds = result.seconds or time.monotonic() - begun
            nothing = not (result.passed or result.failed or result.skips or result.problem)
            # With arguments like -k a suite may well have nothing to run.
            if nothing and not self.arguments:
                result.problem = "no test ran"
        return results

    # --- in the Debian tree --------------------------------------------------

    def lint(self) -> List[Result]:
        """Format, lint, types, direction of imports, spelling."""
        scripts = [str(path.relative_to(host.REPOSITORY)) for path in sorted(host.REPOSITORY.glob("dev/*"))
                   if path.is_file() and not path.suffix]  # fmt: skip
        checks = {
            "format": ["ruff", "format", "--no-cache", "--check", ".", *scripts],
            "ruff": ["ruff", "check", "--no-cache", ".", *scripts],
            "mypy": ["mypy", "--cache-dir=/cache"],
            "imports": ["lint-imports", "--no-cache"],
            "codespell": ["codespell"],
        }
        cellar = self.environment.cache.root / "mypy"
        cellar.mkdir(exist_ok=True)
        results = []
        for name, words in checks.items():
            begun = time.monotonic()
            status = self._inside([BIN + words[0], *words[1:]], binds={"/cache": cellar})
            result = Result(name, passed=int(not status), failed=int(bool(status)))
            result.seconds = time.monotonic() - begun
            results.append(result)
        return results

    def unit(self) -> List[Result]:
        """Everything pure, without privileges."""
        return [self._pytest_inside("unit", ["tests/unit"], through=UNPRIVILEGED)]

    def _pytest_inside(self, name: str, paths: List[str], through: Sequence[str] = ()) -> Result:
        folder = Path(tempfile.mkdtemp(prefix="zeropod-test-"))
        try:
            folder.chmod(0o777)
            words = [*through, *self._pytest(paths, "/out/junit.xml")]
            status = self._inside(words, binds={"/out": folder})
            return report.read(name, folder / "junit.xml", status)
        finally:
            shutil.rmtree(folder)

    def _pytest(self, paths: List[str], junit: str) -> List[str]:
        chosen = [word for word in self.arguments if word.startswith(paths[0])]
        rest = [word for word in self.arguments if not word.startswith("tests/")]
        # pytest's own time limit interrupts a test once; one that then waits in its clean-up for ever
        # shows where it stands, and the suite is ended.
        return ["timeout", "--kill-after=10", "%d" % self.limit, BIN + "python", "-X", "faulthandler", "-m", "pytest", "-o",
                "faulthandler_timeout=240", "-p", "no:cacheprovider", "-q", "--junitxml=" + junit,
                *rest, *(chosen or paths)]  # fmt: skip

    def _inside(self, words: Sequence[str], binds: Mapping[str, Path]) -> int:
        env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/src", "PATH": BIN + ":" + sandbox.PATH,
               "HOME": "/tmp"}  # fmt: skip
        return process.call(sandbox.command(self.environment.layers, words, binds=binds,
                                            readonly={"/src": host.REPOSITORY}, env=env, cwd="/src"))  # fmt: skip

    # --- in a node -----------------------------------------------------------

    def supervisor(self) -> List[Result]:
        """The C programs themselves, in namespaces that the tests make."""
        return [self._pytest_in_node("supervisor", "tests/supervisor", zeropod=False)]

    def node(self) -> List[Result]:
        """The product, on Debian's containerd."""
        return [self._pytest_in_node("node")]

    def both(self) -> List[Result]:
        """Those node tests that are about containerd's ways, on the newer one."""
        if not containerd.can_build():
            return [Result("node 2.3", skips=[NO_GO])]
        return [self._pytest_in_node("node 2.3", variant="2.3", extra=["-m", "both"])]

    def _pytest_in_node(
        self,
        name: str,
        folder: str = "tests/node",
        *,
        variant: str = "debian",
        zeropod: bool = True,
        extra: Sequence[str] = (),
    ) -> Result:
        # Two test runs at once must not share a node.
        node = Node(
            self.environment.cache, "test-%s-%d" % (variant.replace(".", "-"), os.getpid())
        )
        try:
            node.start(self.environment, variant=variant, zeropod=zeropod)
            words = [*self._pytest([folder], "/var/log/node/junit.xml"), *extra]
            status = node.call(words, cwd="/src")
            result = report.read(name, node.state / "log/node/junit.xml", status)
            if result.failed or result.problem:
                node.report()
            return result
        finally:
            node.stop()

    # --- in virtual machines -------------------------------------------------

    def vm(self) -> List[Result]:
        """Node tests on stock kernels, each in a machine; two at a time."""
        host.require_packages(*machine.TOOLS)
        limit = ALL_MACHINES_LIMIT if self.everything else MACHINE_LIMIT
        runs = [run for run in (ALL_MACHINES if self.everything else MACHINES)
                if self.kernel in (None, run.kernel)]  # fmt: skip
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda run: self._in_machine(run, limit), runs))

    def _in_machine(self, run: Run, limit: float) -> Result:
        if run.containerd != "debian" and not containerd.can_build():
            return Result(run.name, skips=[NO_GO])
        begun = time.monotonic()
        environment = self.environment
        kernel = kernels.kernel(environment.cache, environment.rootfs, run.kernel)
        task = {
            "task": "tests",
            "arguments": self.arguments,
            "limit": limit,
            "expression": run.expression,
        }
        try:
            found = Result(
                **machine.Machine(environment, kernel, run.containerd).run(task, limit + 300)
            )
        except DevError as error:
            found = Result(run.name, problem=str(error))
        found.name, found.seconds = run.name, time.monotonic() - begun
        return found

    def inside(self, variant: str, expression: str) -> Result:
        """The part of it that runs in the machine."""
        chosen = ["-m", expression] if expression else []
        # Minutes pass between two dots.
        return self._pytest_in_node("node", variant=variant, extra=["-vv", *chosen])

    # --- on the host ---------------------------------------------------------

    def host(self) -> List[Result]:
        """What a node leaves on this machine: nothing. unittest, because pytest is not needed here."""
        if any(word.startswith("tests/") for word in self.arguments) and not any(
            word.startswith("tests/host") for word in self.arguments
        ):
            return []
        suite = unittest.defaultTestLoader.discover(str(host.REPOSITORY / "tests/host"))
        count = suite.countTestCases()
        outcome = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
        failed = len(outcome.failures) + len(outcome.errors)
        skips = [reason for _, reason in outcome.skipped]
        return [Result("host", passed=count - failed - len(skips), failed=failed, skips=skips)]
