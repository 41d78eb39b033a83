"""`python3 -m checkpointer`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import inspect
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from checkpointer import (
    api,
    cgroups,
    containers,
    errors,
    execwatch,
    health,
    images,
    kubelet,
    log,
    metrics,
    scrape,
    service,
    settings,
    zygote,
)
from checkpointer.cluster import Cluster, Silent
from checkpointer.engine import Engine
from checkpointer.node import Node
from checkpointer.room import Room
from checkpointer.unthrottled import Unthrottled
from redirector import datapath
from redirector.answering import Answering
from redirector.errors import RedirectorError
from ttrpc.server import Server

logger = logging.getLogger("checkpointer")

ENVIRONMENT = {"node_name": os.environ.get("NODE_NAME", "")}
"""Defaults that a pod's environment gives."""

FILES = 1 << 16
"""Open files that are enough for every node."""

CHOICES = {
    "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 1 if it cannot start (the log says why and what to do)."""
    chosen = _parse(argv)
    log.set_up(chosen.log_format, chosen.log_level)
    os.umask(0o077)
    # A container takes a handful, and the soft limit may be 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES)), hard))
    try:
        asyncio.run(_serve(chosen))
    except (OSError, errors.CheckpointerError, RedirectorError) as error:
        logger.critical("start.failed", extra={"reason": str(error)}, exc_info=error)
        return 1
    return 0


async def _serve(chosen: settings.Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = await loop.run_in_executor(None, lambda: _engine(chosen))
    node = Node(engine, containers.Records(chosen.run_dir / "containers"), chosen.workers)
    engine.execs.start(node.wanted)
    loaded = asyncio.Event()
    well = health.of(engine, loop, loaded.is_set)

    def vouch(anew: bool) -> None:
        anew = engine.datapath.answer_again(anew=anew)
        node.vouch(able=not loaded.is_set() or well.passes("/readyz"), anew=anew)

    watch = kubelet.Watch(chosen.kubelet_cgroup, engine.datapath.kubelet, vouch)
    await loop.run_in_executor(None, watch.look)
    hears = loop.create_task(watch.run(), name="kubelet")
    node.load()
    server = Server(service.services(node))
    await server.serve_unix(chosen.socket, mode=0o600)
    # Before containers are taken over, which may take longer than a liveness probe waits.
    scraped = _scrape(chosen.metrics_addr, node, well)
    await node.loaded()
    await loop.run_in_executor(None, engine.datapath.settle)
    loaded.set()
    # Now, and on another thread: its import takes half a second, and who is woken meanwhile does not need it.
    node.cluster = await loop.run_in_executor(None, _kubernetes, chosen)
    node.cluster.start(node)
    # What is there now stays; without this every collection walks all of it.
    gc.collect()
    gc.freeze()
    logger.info(
        "ready",
        extra={
            "version": api.version(),
            "criu": engine.zygotes.bundle.version,
            **node.answers.counts(),
        },
    )
    await stop.wait()
    logger.info("stopping")
    hears.cancel()
    await server.close()
    await node.close()
    await node.cluster.close()
    if scraped is not None:
        scraped.close()
    engine.execs.close()


def _kubernetes(chosen: settings.Settings) -> Cluster:
    """What talks to the Kubernetes API, where that is wanted; a daemon that wakes containers does not fail over it."""
    wanted = chosen.kubernetes()
    if not wanted:
        return Silent()
    # Late: the client costs memory, and many daemons do without.
    from checkpointer.kubernetes import client, side  # noqa: PLC0415

    try:
        if not chosen.node_name:
            raise errors.CheckpointerError("--node-name or NODE_NAME must name this node")
        kubeconfig = Path(chosen.kubeconfig) if chosen.kubeconfig else None
        return side.Side(chosen, client.Client.of(kubeconfig))
    except errors.CheckpointerError as error:
        logger.error("kubernetes.failed", extra={"reason": error.reason})  # noqa: TRY400 - the reason says it
        return Silent(dict.fromkeys(wanted, error.reason))


def _scrape(address: str, node: Node, well: health.Health) -> scrape.Scrape | None:
    """Serve metrics and health; a daemon that wakes containers does not fail over an address."""
    try:
        return scrape.Scrape(address, metrics.Exposition(node.view), well.answer)
    except errors.CheckpointerError as error:
        logger.warning("metrics.failed", extra={"reason": error.reason})
        return None


def _engine(chosen: settings.Settings) -> Engine:
    for directory in (chosen.run_dir, chosen.state_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # the kubelet makes hostPaths for everybody to read
    helpers = cgroups.Slice.ensure(cgroups.SLICE)
    zygotes = zygote.Zygotes(
        zygote.Bundle.at(chosen.bundle), run_dir=chosen.run_dir, slice_=helpers
    )
    zygotes.ensure()
    opened = datapath.Datapath.open(chosen.pin_root)
    opened.answer_by(Answering(chosen.run_dir / "responder", opened.kubelet, helpers.adopt))
    return Engine(
        settings=chosen,
        datapath=opened,
        store=images.Store(chosen.state_dir),
        zygotes=zygotes,
        execs=execwatch.ExecWatch(chosen.container_dir / "wake"),
        room=Room(chosen.memory_reserve),
        unthrottled=Unthrottled(chosen.run_dir / "cpu.max.json"),
    )


def _parse(argv: Sequence[str] | None) -> settings.Settings:
    parser = argparse.ArgumentParser(
        "zeropod-checkpointer", description="Puts containers to sleep and wakes them."
    )
    helps = _field_docs()
    for field in dataclasses.fields(settings.Settings):
        name = "--" + field.name.replace("_", "-")
        text = f"{helps[field.name]} (default: {field.default})".replace("%", "%%")
        if isinstance(field.default, bool):
            # As with the original: alone, or with a value.
            parser.add_argument(
                name, type=_switch, nargs="?", const=True, default=False, help=text
            )
            continue
        parser.add_argument(
            name,
            type=Path if isinstance(field.default, Path) else type(field.default),
            default=ENVIRONMENT.get(field.name, field.default),
            choices=CHOICES.get(field.name),
            help=text,
        )
    return settings.Settings(**vars(parser.parse_args(argv)))


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r}: write true or false")
    return text == "true"


def _field_docs() -> dict[str, str]:
    """The docstring below each field of the settings: the help texts have one source."""
    found = re.findall(
        r'^    (\w+): .*\n    """((?:.|\n)*?)"""',
        inspect.getsource(settings.Settings),
        re.MULTILINE,
    )
    return {name: " ".join(text.split()) for name, text in found}


if __name__ == "__main__":
    sys.exit(main())
