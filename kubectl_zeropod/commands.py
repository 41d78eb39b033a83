"""The commands, over one cluster; each returns its exit code."""

import argparse
import dataclasses
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubectl_zeropod import errors, printing, sleepers
from kubectl_zeropod.cluster import Cluster
from kubectl_zeropod.doctor import FAILED, SKIPPED, Doctor
from kubectl_zeropod.nodes import Ask, Nodes, reference
from kubectl_zeropod.sleepers import Object, Sleeper

WAKE = ["/.zeropod/init"]
"""A program that is in every managed container: the supervisor. An exec waits until the container is awake, and as
anything but process 1 this one says so and ends at once."""

SAID = 64
"""Its exit status then."""

_WAKING = 120.0
"""Seconds that an exec may have to wait for the wake."""

_AT_ONCE = 8
"""Pods at a time."""


class Commands:
    """The commands.

    Args:
        cluster: Where.
        args: What was asked for.
    """

    def __init__(self, cluster: Cluster, args: argparse.Namespace) -> None:
        self._cluster = cluster
        self._args = args
        self._nodes = Nodes(cluster)
        self._namespace: str | None = args.namespace or cluster.namespace
        if args.all_namespaces:
            self._namespace = None

    def list(self) -> int:
        """What the pods' labels say."""
        found = [one for pod in self._pods() for one in self._chosen(pod)]
        return self._show(found, _row, [dataclasses.asdict(one) for one in found])

    def status(self) -> int:
        """The same, and what zeropod last said of each."""
        found = [one for pod in self._pods() for one in self._chosen(pod)]
        told = self._told()
        plain = [dataclasses.asdict(one) | {"event": _plain(told.get(one.title))} for one in found]

        def row(one: Sleeper, now: dt.datetime) -> tuple[tuple[str, str], ...]:
            last = told.get(one.title)
            return (
                *_row(one, now)[:3],
                ("LAST EVENT", last.reason if last else ""),
                ("SEEN", sleepers.age(last.time, now) if last else ""),
                ("MESSAGE", printing.clean(last.message) if last else ""),
            )

        return self._show(found, row, plain)

    def why(self) -> int:
        """One paragraph a container, of the daemon of its node."""

        def ask(pod: Object) -> Any:
            try:
                return self._ask(pod, "why")
            except errors.DeniedError:
                if not self._args.output:
                    self._surmise(pod)
                raise

        answer, code = self._each(ask)
        if self._args.output:
            print(printing.dump(answer, self._args.output))
        elif answer:
            print("\n\n".join(printing.clean(one["text"]) for one in answer))
        return code

    def sleep(self) -> int:
        """Put to sleep; waits for it."""
        return self._moved(lambda pod: self._ask(pod, "sleep"))

    def wake(self) -> int:
        """Wake; waits for it."""

        def wake(pod: Object) -> Any:
            try:
                return self._ask(pod, "wake")
            except errors.DeniedError as denied:
                return self._knock(pod, denied)

        return self._moved(wake)

    def watch(self) -> int:
        """States as they are and as they change, until interrupted."""
        known: dict[tuple[str, str], Sequence[Sleeper]] = {}
        show: Callable[[Sleeper], None] | None = None
        for kind, pods in self._cluster.watch(self._namespace, self._args.selector):
            now = {} if kind == "LISTED" else dict(known)
            for pod in pods:
                key = pod["metadata"].get("namespace", ""), pod["metadata"]["name"]
                if self._args.pods and key[1] not in self._args.pods:
                    continue
                now[key] = () if kind == "DELETED" else self._chosen(pod)
            before = [one for found in known.values() for one in found]
            after = [one for found in now.values() for one in found]
            if show is None:
                show = self._printer(after)
            else:
                for one in sleepers.changes(before, after):
                    show(one)
            known = now
        return errors.DONE

    def doctor(self) -> int:
        """What is wrong, and what to do."""
        findings = Doctor(self._cluster, self._nodes).examine()
        plain = [dataclasses.asdict(finding) for finding in findings]
        if self._args.output:
            print(printing.dump(plain, self._args.output))
        else:
            rows = [(one.check, one.on, one.result, printing.clean(one.text)) for one in findings]
            self._table(("CHECK", "ON", "RESULT", "MESSAGE"), rows)
        results = {one.result for one in findings}
        if results == {SKIPPED}:
            return errors.DENIED
        return errors.FAILED if FAILED in results else errors.DONE

    # --- which ---

    def _pods(self) -> Sequence[Object]:
        if self._args.pods:
            return [
                self._cluster.pod(self._namespace or "", name)
                for name in dict.fromkeys(self._args.pods)
            ]
        return self._cluster.pods(self._namespace, self._args.selector)

    def _targets(self) -> Sequence[Object]:
        """The pods that were asked for, at least one.

        Raises:
            errors.NotFoundError: There is none.
        """
        pods = self._pods()
        if not self._args.pods:
            pods = [pod for pod in pods if sleepers.asks(pod)]
        if self._args.all and self._args.command != "why":
            # Where there are labels, a pod without one is not managed: it is meant as little as any other.
            pods = [pod for pod in pods if _labelled(pod)] or pods
        if not (pods or self._args.all):
            raise errors.NotFoundError(
                f"no pod with labels {self._args.selector} asks for zeropod in "
                f"{'namespace ' + self._namespace if self._namespace else 'any namespace'}"
            )
        return pods

    def _each(self, work: Callable[[Object], Any]) -> tuple[Sequence[Any], int]:
        """Do it for each target, several at once, all of them though some fail.

        Returns:
            What was answered, in the order of the pods; the exit code of the first that failed.
        """

        def one(pod: Object) -> Any:
            try:
                return work(pod)
            except errors.PluginError as error:
                return error

        targets = self._targets()
        self._nodes.look(targets)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            results = list(pool.map(one, targets))
        failures = [result for result in results if isinstance(result, errors.PluginError)]
        for text in dict.fromkeys(str(failure) for failure in failures):
            _note(f"error: {text}")
        answers = [
            one
            for result in results
            if not isinstance(result, errors.PluginError)
            for one in result
        ]
        return answers, failures[0].code if failures else errors.DONE

    def _chosen(self, pod: Object) -> Sequence[Sleeper]:
        container = self._args.container
        return [one for one in sleepers.of_pod(pod) if container in ("", one.container)]

    def _told(self) -> dict[str, sleepers.Told]:
        """Zeropod's last word on each container; nothing and a note where events may not be read."""
        try:
            return sleepers.told(self._cluster.events(self._namespace))
        except errors.DeniedError as denied:
            _note(str(denied))
            return {}

    # --- the daemons ---

    def _ask(self, pod: Object, word: str) -> Any:
        metadata, node = pod["metadata"], pod.get("spec", {}).get("nodeName")
        name = reference(metadata["namespace"], metadata["name"], self._args.container)
        if not node:
            raise errors.PluginError(f"{name}: it is not on a node yet")
        return self._nodes.ask(node, Ask((word, name), slow=word != "why"))

    def _knock(self, pod: Object, denied: errors.DeniedError) -> Sequence[dict[str, Any]]:
        """Wake with the rights of the pod's owner: an exec wakes."""
        answer: list[dict[str, Any]] = []
        for one in self._chosen(pod):
            ran = self._cluster.run(
                one.namespace,
                one.pod,
                one.container,
                WAKE,
                timeout=_WAKING,
                remedy=f"ClusterRole `edit` grants it there; or {denied.remedy}",
            )
            if ran.status != SAID:
                said = (ran.err or ran.reason).strip()
                raise errors.PluginError(
                    f"{one.title} was not woken by an exec: {printing.clean(said)}; it may not be managed"
                )
            answer.append(
                {
                    "namespace": one.namespace,
                    "pod": one.pod,
                    "container": one.container,
                    "state": "RUNNING",
                    "wake_cause": "exec",
                }
            )
        if not answer:
            raise denied
        return answer

    def _surmise(self, pod: Object) -> None:
        """What the API tells those who may not ask the daemon."""
        told = self._told()
        now = dt.datetime.now(dt.UTC)
        for one in self._chosen(pod):
            last = told.get(one.title)
            said = ""
            if last:
                ago = sleepers.age(last.time, now)
                said = f" Zeropod's last event, {ago} ago: {last.reason}, {last.message}."
            state = one.state or "without a status label"
            print(printing.clean(f"{one.title} is {state}.{said}"))

    # --- output ---

    def _show(
        self,
        found: Sequence[Sleeper],
        row: Callable[[Sleeper, dt.datetime], tuple[tuple[str, str], ...]],
        plain: Sequence[dict[str, Any]],
    ) -> int:
        if self._args.output in {"json", "yaml"}:
            print(printing.dump(plain, self._args.output))
        elif self._args.output == "name":
            print(printing.names([one.pod for one in found]), end="\n" if found else "")
        elif not found:
            where = f"namespace {self._namespace}" if self._namespace else "the cluster"
            _note(f"No containers that ask for zeropod found in {where}.")
        else:
            now = dt.datetime.now(dt.UTC)
            cells = [self._framed(one, row(one, now)) for one in found]
            self._table([name for name, _ in cells[0]], [[text for _, text in r] for r in cells])
        return errors.DONE

    def _framed(
        self, one: Sleeper, row: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[str, str], ...]:
        """A row with the namespace before, if there are several, and more behind, if asked for."""
        before = (("NAMESPACE", one.namespace),) if self._namespace is None else ()
        wide = (("NODE", one.node), ("SCALEDOWN", one.scaledown))
        return (*before, *row, *(wide if self._args.output == "wide" else ()))

    def _table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        text = printing.table(header, rows)
        print(text.partition("\n")[2] if self._args.no_headers else text)

    def _moved(self, work: Callable[[Object], Any]) -> int:
        infos, code = self._each(work)
        if self._args.output == "name":
            print(printing.names([info["pod"] for info in infos]), end="\n" if infos else "")
        elif self._args.output:
            print(printing.dump(infos, self._args.output))
        else:
            for info in infos:
                took = info.get("sleep_ms" if self._args.command == "sleep" else "wake_ms")
                how = f" ({took:.1f} ms)" if took else ""
                title = f"{info['namespace']}/{info['pod']}/{info['container']}"
                print(f"{title} {info['state']}{how}")
        return code

    def _printer(self, seen: Sequence[Sleeper]) -> Callable[[Sleeper], None]:
        """Print what was there, and return what prints a line below it."""
        form = self._args.output

        def cells(one: Sleeper) -> tuple[tuple[str, str], ...]:
            clock = ("TIME", time.strftime("%H:%M:%S"))
            who = (("POD", one.pod), ("CONTAINER", one.container), ("STATE", one.state))
            return (clock, *self._framed(one, who))

        if form in {"json", "name"}:

            def plain(one: Sleeper) -> None:
                line = json.dumps(dataclasses.asdict(one)) if form == "json" else f"pod/{one.pod}"
                print(line, flush=True)

            for one in seen:
                plain(one)
            return plain

        rows = [[text or "<none>" for _, text in cells(one)] for one in seen]
        blank = Sleeper("", "", "", "", 0, "", "", "")
        header = [name for name, _ in cells(blank)]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        widths[header.index("STATE")] = len("SCALED_DOWN")

        def line(texts: Sequence[str]) -> None:
            padded = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
            print("   ".join(padded).rstrip(), flush=True)

        if not self._args.no_headers:
            line(header)
        for texts in rows:
            line(texts)
        return lambda one: line([text or "<none>" for _, text in cells(one)])


def _labelled(pod: Object) -> bool:
    return any(one.state for one in sleepers.of_pod(pod))


def _row(one: Sleeper, now: dt.datetime) -> tuple[tuple[str, str], ...]:
    return (
        ("POD", one.pod),
        ("CONTAINER", one.container),
        ("STATE", one.state),
        ("RESTARTS", str(one.restarts)),
        ("AGE", sleepers.age(one.created, now)),
    )


def _plain(told: sleepers.Told | None) -> dict[str, Any] | None:
    return dataclasses.asdict(told) if told else None


def _note(text: str) -> None:
    print(text, file=sys.stderr)
