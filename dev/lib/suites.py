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
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Callable, Iterator, List, Mapping, Optional, Sequence

from dev.lib import (
    cluster,
    containerd,
    host,
    kernels,
    kubernetes,
    machine,
    process,
    renderers,
    report,
    runs,
    sandbox,
)
from dev.lib.environment import Environment
from dev.lib.errors import DevError
from dev.lib.node import Node
from dev.lib.report import Result
from dev.lib.runs import Run

log = logging.getLogger("dev")

BIN = "/opt/zeropod/venv/bin/"

#: Nobody: tests of pure things need no privileges.
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

#: Why the second containerd is left out where it cannot be built.
NO_GO = "containerd 2.3 is built from source and there is no Go on this machine"

#: How many times slower a node is beside others.
CROWDED = 2.0

#: So many failures may be of the moment; more are not.
FEW = 4


class Suites:
    """All suites on one environment."""

    def __init__(
        self,
        environment: Environment,
        arguments: Sequence[str],
        *,
        limit: float = runs.LIMIT,
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
        self.slower = 1.0
        self.tiers: dict[str, Callable[[], list[Result]]] = {
            "lint": self.lint,
            "unit": self.unit,
            "supervisor": self.supervisor,
            "node": self.node,
            "both": self.both,
            "host": self.host,
            "cluster": self.cluster,
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
        return self._at_once(runs.UNIT, Suites._unprivileged)

    def _unprivileged(self, run: Run) -> Result:
        folder = Path(tempfile.mkdtemp(prefix="zeropod-test-"))
        try:
            folder.chmod(0o777)
            words = [*UNPRIVILEGED, *self._pytest([run.folder], "/out/junit.xml")]
            more = renderers.layer(self.environment.cache)
            status = self._inside(words, binds={"/out": folder}, more=more)
            return report.read(run.name, folder / "junit.xml", status)
        finally:
            shutil.rmtree(folder)

    def _pytest(self, paths: List[str], junit: str, options: Sequence[str] = ()) -> List[str]:
        chosen = [word for word in self.arguments if word.startswith(paths[0])]
        rest = [word for word in self.arguments if not word.startswith("tests/")]
        # pytest's own time limit interrupts a test once; one that then waits in its clean-up for ever
        # shows where it stands, and the suite is ended.
        return ["timeout", "--kill-after=10", "%d" % self.limit, BIN + "python", "-X", "faulthandler", "-m", "pytest", "-o",
                "faulthandler_timeout=240", "-p", "no:cacheprovider", "-q", "--junitxml=" + junit, *options,
                *rest, *(chosen or paths)]  # fmt: skip

    def _inside(
        self, words: Sequence[str], binds: Mapping[str, Path], more: Optional[Path] = None
    ) -> int:
        layers = [more, *self.environment.layers] if more else self.environment.layers
        env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/src", "PATH": BIN + ":" + sandbox.PATH,
               "HOME": "/tmp"}  # fmt: skip
        return process.call(sandbox.command(layers, words, binds=binds,
                                            readonly={"/src": host.REPOSITORY}, env=env, cwd="/src"))  # fmt: skip

    # --- in nodes ------------------------------------------------------------

    def supervisor(self) -> List[Result]:
        """The C programs."""
        return self._at_once(runs.SUPERVISOR, Suites.on_node)

    def node(self) -> List[Result]:
        """The product."""
        return self._at_once(runs.NODE, Suites.on_node)

    def both(self) -> List[Result]:
        """The product on another containerd."""
        return self._at_once(runs.BOTH, Suites.on_node)

    def vm(self) -> List[Result]:
        """The product on stock kernels, in virtual machines."""
        host.require_packages(*machine.TOOLS)
        wanted = runs.ALL_MACHINES if self.everything else runs.MACHINES
        here = [run for run in wanted if self.kernel in (None, run.kernel)]
        return self._at_once(here, Suites._in_machine)

    def _at_once(self, wanted: Sequence[Run], work: Work) -> List[Result]:
        """Several runs side by side; each prints its lines with its name."""
        wanted = runs.undivided(wanted) if self.arguments else wanted
        self.slower = CROWDED if min(len(wanted), runs.AT_ONCE) > 1 else 1.0
        with ThreadPoolExecutor(runs.AT_ONCE) as pool:
            futures = [pool.submit(self._timed, run, work) for run in wanted]
            try:
                results = [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                process.end_followed()
                raise
        for index, result in enumerate(results):
            self._again(wanted[index], result, work)
        return results

    def _again(self, run: Run, first: Result, work: Work) -> None:
        """Runs what failed in a complete run once more, when nothing else runs.

        Three nodes and the machine's other users share few processors: who waits for a green run has to know a defect
        from a slow moment, and must not lose sight of either.
        """
        if self.arguments or first.problem or not 0 < len(first.failures) <= FEW:
            return
        log.info("\n=== %s: what failed, once more and alone", run.name)
        alone = Suites(self.environment, list(first.failures), limit=self.limit)
        second = alone._timed(replace(run, name=run.name + " again", part="", expression=""), work)
        report.absolve(first, second)

    def _timed(self, run: Run, work: Work) -> Result:
        begun = time.monotonic()
        if run.containerd != "debian" and not containerd.can_build():
            return Result(run.name, skips=[NO_GO])
        try:
            found = work(self, run)
        except DevError as error:
            found = Result(run.name, problem=str(error))
        found.name, found.seconds = run.name, time.monotonic() - begun
        return found

    def on_node(self, run: Run) -> Result:
        """Starts a node, runs tests on it, ends it."""
        with self._node(run) as node:
            node.start(self.environment, variant=run.containerd, zeropod=run.zeropod)
            words = self._pytest([run.folder], "/var/log/node/junit.xml", ["-vv", *run.options()])
            entry = node.entry(words, cwd="/src", slower=self.slower)
            return self._followed(run, node, entry, "log/node/junit.xml")

    @contextmanager
    def _node(self, run: Run) -> Iterator[Node]:
        """A node for one run, ended afterwards: two test runs at once must not share one."""
        name = "-".join(["test", *run.name.replace("/", " ").split(), str(os.getpid())])
        node = Node(self.environment.cache, name.replace(".", "-"))
        try:
            yield node
        finally:
            node.stop()

    def _followed(
        self, run: Run, node: Node, command: Sequence[process.Argument], junit: str
    ) -> Result:
        """Runs pytest to its end; its result, with the node's logs if something failed."""
        status, _ = process.follow(command, run.name)
        result = report.read(run.name, node.state / junit, status)
        if result.failed or result.problem:
            node.report()
        return result

    def _in_machine(self, run: Run) -> Result:
        """The same in a virtual machine: `guest.tests` goes on with `on_node`."""
        environment = self.environment
        limit = runs.ALL_MACHINES_LIMIT if self.everything else runs.MACHINE_LIMIT
        kernel = kernels.kernel(environment.cache, environment.rootfs, run.kernel or "")
        one = machine.Machine(environment, kernel, run.containerd, run.name)
        task = {"task": "tests", "arguments": self.arguments, "limit": limit, "run": asdict(run)}
        return Result(**one.run(task, limit + 300))

    # --- on the host ---------------------------------------------------------

    def host(self) -> List[Result]:
        """What a node leaves on this machine: nothing."""
        return self._unittest("host", "tests/host")

    def cluster(self) -> List[Result]:
        """A cluster of real Kubernetes."""
        results = self._unittest("cluster", "tests/cluster")
        if self._elsewhere("tests/e2e") or not kubernetes.can_have(self.environment.cache):
            return results
        return results + self._at_once(runs.CLUSTER, Suites._on_cluster)

    def _on_cluster(self, run: Run) -> Result:
        """Starts a cluster, runs tests that go through its API, ends it."""
        environment = self.environment
        with self._node(run) as node:
            node.start(environment, variant=run.containerd, zeropod=False, kubernetes=True)
            cluster.load(node, environment)
            words = self._pytest([run.folder], "/out/junit.xml", ["-vv", *run.options()])
            with cluster.tests(node, environment, words) as command:
                return self._followed(run, node, command, "log/out/junit.xml")

    def _elsewhere(self, folder: str) -> bool:
        """Whether tests were named and none of them is in this folder."""
        named = [word for word in self.arguments if word.startswith("tests/")]
        return bool(named) and not any(word.startswith(folder) for word in named)

    def _unittest(self, name: str, folder: str) -> List[Result]:
        """Tests on this machine's own Python; pytest need not be there."""
        if self._elsewhere(folder):
            return []
        suite = unittest.TestLoader().discover(str(host.REPOSITORY / folder))
        count = suite.countTestCases()
        outcome = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
        failed = len(outcome.failures) + len(outcome.errors)
        skips = [reason for _, reason in outcome.skipped]
        return [Result(name, passed=count - failed - len(skips), failed=failed, skips=skips)]


#: Runs the tests of one `Run`.
Work = Callable[[Suites, Run], Result]
