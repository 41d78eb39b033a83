"""`python3 -m nri_plugin`: flags to settings, then run until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import inspect
import re
import signal
import sys

from nri_plugin import breaker, containers, log, plugin, registry, report, settings, stub


def parse(arguments: list[str] | None = None) -> settings.Settings:
    """Return the settings that the command line asks for; one flag for each field."""
    parser = argparse.ArgumentParser(prog="zeropod-nri-plugin", description=inspect.getdoc(stub))
    defaults = settings.Settings()
    helps = _field_docs()
    choices = {"log_format": ["text", "json"], "log_level": ["debug", "info", "warning", "error"]}
    for field in dataclasses.fields(settings.Settings):
        default = getattr(defaults, field.name)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=_index if field.name == "index" else type(default),
            default=default,
            choices=choices.get(field.name),
            help=f"{helps[field.name]} (default: {default})",
        )
    return settings.Settings(**vars(parser.parse_args(arguments)))


async def run(config: settings.Settings) -> None:
    """Run the plugin until it is cancelled."""
    known = registry.Registry()
    records = containers.Containers(config.containerd_socket, config.containerd_namespace)
    handlers = plugin.Plugin(config, known, records, breaker.Breaker())
    reporter = report.Reporter(known, config.daemon_socket, handlers.synchronized_once)
    connected = stub.run_forever(handlers, config.nri_socket, name=config.name, index=config.index)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(connected, name="nri")
            group.create_task(reporter.run(), name="report")
    finally:
        await handlers.close()


def main() -> int:
    """Run as a program; SIGTERM and SIGINT end it with 0."""
    config = parse()
    log.configure(style=config.log_format, level=config.log_level)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_signalled(config))
    return 0


async def _until_signalled(config: settings.Settings) -> None:
    work = asyncio.create_task(run(config), name="plugin")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    await work


def _index(text: str) -> str:
    """NRI wants exactly two digits."""
    if not re.fullmatch("[0-9]{2}", text):
        raise argparse.ArgumentTypeError("two digits, from 00 to 99")
    return text


def _field_docs() -> dict[str, str]:
    """Return the docstring below each field of the settings: the help texts have one source."""
    source = inspect.getsource(settings.Settings)
    found = re.findall(r'^    (\w+): .*\n    """((?:.|\n)*?)"""', source, re.MULTILINE)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in found}


if __name__ == "__main__":
    sys.exit(main())
