"""Time to the first byte of a sleeping pod's answer, against the same request awake. Runs inside the dev node.

For each row: a new connection and one from before the sleep, the image in the page cache (hot) and dropped from it
(cold). The phases of a wake and of a sleep are the daemon's own clock; shown are means, which add up to their total. The
client's figure holds what is around a wake as well (the network, the hold, scheduling).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bench import rows
from bench.daemon import Daemon, forget_pages
from bench.rows import Row, connect, first_byte, milliseconds

SETTLE = 0.05
"""Seconds between a sleep and the request, so that the sleep's own work is over."""


def main() -> int:
    """Measure, print a table or JSON."""
    options = _options()
    chosen = [
        row
        for row in rows.ROWS
        if not options.only or any(word in row.name for word in options.only)
    ]
    results: dict[str, Any] = {}
    for row in chosen:
        results[row.name] = measure(row, options.rounds or row.rounds)
        _say(options, f"{row.name}: done")
    if not options.only or "20" in options.only:
        results["20 pods at once"] = at_once(20, max(3, (options.rounds or 50) // 10))
    print(json.dumps(results, indent=2) if options.output == "json" else _table(results))
    return 0


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """All figures of one row."""
    daemon, name = Daemon(), row.name.replace(" ", "-").lower()
    reference = f"bench/{name}"
    pod, container = rows.start(row, name)
    figures: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, dict[str, list[float]]] = {
        "wake": defaultdict(list),
        "sleep": defaultdict(list),
    }
    size = 0
    try:
        kept = connect(pod.ip, row)
        first_byte(kept, row)

        def new() -> None:
            with connect(pod.ip, row) as connection:
                first_byte(connection, row)

        def old() -> None:
            first_byte(kept, row)

        for number in range(4 * rounds):
            what: Callable[[], None] = new if number % 2 == 0 else old
            cold = number >= 2 * rounds
            rows.rest(kept)
            figures[f"{what.__name__} awake"].append(milliseconds(what))
            rows.rest(kept)
            info = _asleep(daemon, reference)
            size = info.image_bytes
            figures["sleep"].append(info.sleep_ms)
            for phase, took in info.sleep_phases.items():
                phases["sleep"][phase].append(took)
            if cold:
                forget_pages(container.id)
            time.sleep(SETTLE)
            figures[f"{what.__name__} {'cold' if cold else 'hot'}"].append(milliseconds(what))
            info = _woken(daemon, reference)
            figures["wake"].append(info.wake_ms)
            for phase, took in info.wake_phases.items():
                phases["wake"][phase].append(took)
    finally:
        pod.remove()
    return {
        "image_mb": size / 1e6,
        "n": rounds,
        **{name: _spread(values) for name, values in sorted(figures.items())},
        "phases": {
            move: {
                **_means(found, 4 * rounds),
                "total": statistics.mean(figures[move]),
            }
            for move, found in phases.items()
        },
    }


def at_once(count: int, rounds: int) -> dict[str, Any]:
    """New connections to many sleeping redis at the same moment."""
    daemon, row = Daemon(), rows.ROWS[0]
    pods = [rows.start(row, f"herd-{number}")[0] for number in range(count)]
    took: list[float] = []
    worst: list[float] = []
    try:
        for _ in range(rounds):
            for number in range(count):
                _asleep(daemon, f"bench/herd-{number}")
            time.sleep(0.5)
            now = _together([pod.ip for pod in pods], row)
            took += now
            worst.append(max(now))
    finally:
        for pod in pods:
            pod.remove()
    return {"n": rounds, "new hot": _spread(took), "slowest of each round": _spread(worst)}


def _together(addresses: list[str], row: Row) -> list[float]:
    barrier, took = threading.Barrier(len(addresses)), []

    def ask(address: str) -> None:
        barrier.wait()

        def new() -> None:
            with connect(address, row) as connection:
                first_byte(connection, row)

        took.append(milliseconds(new))

    threads = [threading.Thread(target=ask, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def _asleep(daemon: Daemon, reference: str) -> Any:
    """Put to sleep; a lazy wake has to bring in its pages first, so it may take more than one try."""
    while daemon.info(reference).draining:
        time.sleep(0.02)
    return daemon.sleep(reference)


def _woken(daemon: Daemon, reference: str) -> Any:
    while (info := daemon.info(reference)).state != "RUNNING":
        time.sleep(0.005)
    return info


def _means(phases: dict[str, list[float]], rounds: int) -> dict[str, float]:
    """What each phase takes, the longest first; one that did not happen took nothing."""
    found = {name: sum(values) / rounds for name, values in phases.items()}
    return dict(sorted(found.items(), key=lambda phase: -phase[1]))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))],
        "max": ordered[-1],
    }


COLUMNS = ("new awake", "new hot", "new cold", "old awake", "old hot", "old cold", "sleep")


def _table(results: dict[str, Any]) -> str:
    lines = [
        "milliseconds, p50 / p99; new: new connection, old: one from before the sleep; n = wakes in each column",
        "",
    ]
    lines.append(f"{'':<16}{'image':>9}{'n':>5}" + "".join(f"{column:>16}" for column in COLUMNS))
    for name, row in results.items():
        cells = "".join(
            f"{row[c]['p50']:>8.1f} /{row[c]['p99']:>6.1f}" if c in row else f"{'':>16}"
            for c in COLUMNS
        )
        image = f"{row['image_mb']:.1f} MB" if "image_mb" in row else ""
        lines.append(f"{name:<16}{image:>9}{row['n']:>5}{cells}")
    herd = results.get("20 pods at once")
    if herd:
        slow = herd["slowest of each round"]
        lines.append(
            f"20 pods at once: slowest of the 20, median {slow['p50']:.0f}, worst {slow['max']:.0f}"
        )
    for move in ("wake", "sleep"):
        lines += ["", f"phases of a {move} by the daemon's clock, mean, and their total:"]
        for name, row in results.items():
            if "phases" in row:
                parts = [f"{phase} {took:.1f}" for phase, took in row["phases"][move].items()]
                lines.append(f"  {name:<15} {', '.join(parts)}")
    return "\n".join(lines)


def _say(options: argparse.Namespace, text: str) -> None:
    if options.output != "json":
        print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("dev/bench wake", description=__doc__)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("-n", "--rounds", type=int, help="wakes in each column (default: 50)")
    parser.add_argument("only", nargs="*", help="rows whose name contains one of these words")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
