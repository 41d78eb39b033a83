"""What has to change in containerd's configuration: NRI on, a runtime called zeropod; pure.

Pods with annotations need NRI alone. The runtime is for pods of the original zeropod, which ask for it by
runtimeClassName and nothing else: it is runc with runc's own options, under another name.

Two ways. Where a directory of files is merged (2.2 and later if the configuration imports it, k0s, recent k3s), ours is
one of them and no file of anybody else is touched. Everywhere else a block is appended to the configuration: 1.7 reads
imported files too, but replaces the whole section of a plugin by them (seen with 1.7.24: the sandbox image was lost).
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from installer import toml
from installer.errors import InstallError
from installer.layouts import Layout

HANDLER = "zeropod"
BACKUP = ".before-zeropod"
DROP_IN = "zeropod.toml"
NRI = ("plugins", "io.containerd.nri.v1.nri")
CRI = {
    2: ("plugins", "io.containerd.grpc.v1.cri"),
    3: ("plugins", "io.containerd.cri.v1.runtime"),
}
"""The CRI plugin's key by the version of the configuration (docs/cri/config.md of containerd); 4 has that of 3."""

MERGES = (2, 2)
"""From this version on the configuration that `containerd config default` prints imports /etc/containerd/conf.d. One that
does not say so, or is not there, imports nothing, whatever `containerd config dump` shows (seen with 2.3.4)."""

SOCKET = "/var/run/nri/nri.sock"
"""Where NRI listens unless its socket_path says something else."""

RUNC = {"runtime_type": "io.containerd.runc.v2"}
BASE = '{{ template "base" . }}\n'
"""What a template of k3s begins with that only adds to the rendered configuration (docs.k3s.io/advanced)."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A file that is to be written.

    Attributes:
        path: On the node.
        before: What it says, None if it is not there.
        after: What it shall say, None if it shall not be there.
        what: For people.
    """

    path: str
    before: str | None
    after: str | None
    what: str


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a node that decide.

    Attributes:
        config: The configuration or template, None if it is not there.
        rendered: What a template was rendered to, None if it is not there.
        drop_in: Our file of the last installation, None if it is not there.
        version: containerd's, (0, 0) if it cannot be told.
        others: The other files in the directory that ours is in, in the order in which they are merged.
        kept: Whether the configuration was there before us: what it said then is kept beside it.
    """

    config: str | None
    rendered: str | None
    drop_in: str | None
    version: tuple[int, int]
    others: Sequence[str] = ()
    kept: bool = False


def install(layout: Layout, found: Found) -> list[Change]:
    """Return what to write; nothing if all is there.

    Raises:
        InstallError: the configuration is odd.
    """
    if _merges(layout, found):
        return _drop_in(layout, found)
    changes = _template(layout, found) if layout.template else _edit(layout, found)
    if found.drop_in is not None:  # of a time when it was read
        path = f"{layout.drop_in}/{DROP_IN}"
        changes.append(Change(path, found.drop_in, None, "remove our file, which is not read"))
    return changes


def uninstall(layout: Layout, found: Found) -> list[Change]:
    """Return what to write to be as before; what others have changed meanwhile stays."""
    changes = []
    if found.drop_in is not None:
        path = f"{layout.drop_in}/{DROP_IN}"
        changes.append(Change(path, found.drop_in, None, "remove our file"))
    if found.config is not None and (text := toml.restored(found.config)) != found.config:
        ours = text in {"", BASE} and not found.kept
        after = None if ours else text
        changes.append(Change(layout.config, found.config, after, "take out our lines"))
    return changes


def socket(found: Found) -> str:
    """Return where NRI listens."""
    texts = [found.rendered or found.config, *found.others]
    tables = [toml.loose(text) for text in texts if text]
    said = [toml.at(table, (*NRI, "socket_path")) for table in tables]
    return next((str(path) for path in reversed(said) if path), SOCKET)


def problem(dump: str) -> str:
    """Say what is wrong with a configuration as containerd itself understands it, "" if it is as we want it.

    Args:
        dump: What `containerd config dump` prints.
    """
    config = toml.loose(dump)
    if toml.at(config, (*NRI, "disable")) or toml.at(config, (*NRI, "disable_connections")):
        return "NRI is still disabled"
    for cri in CRI.values():
        containerd = toml.at(config, (*cri, "containerd"))
        if isinstance(containerd, Mapping):
            runtimes = containerd.get("runtimes", {})
            wanted = {HANDLER, containerd.get("default_runtime_name") or HANDLER}
            if missing := sorted(wanted - set(runtimes)):
                return f"there is no runtime {' and no runtime '.join(missing)}"
    return ""


def broken(plugins: str) -> list[str]:
    """Return which of containerd's plugins that we depend on did not start.

    Args:
        plugins: What `ctr plugins ls` prints.
    """
    found = []
    for line in plugins.splitlines():
        kind, name, *_, status = line.split() if len(line.split()) > 2 else ("", "", "")
        ours = kind.startswith("io.containerd.cri.") or name in {"cri", "nri"}
        if ours and status == "error":
            found.append(f"{kind}.{name}")
    return found


def _merges(layout: Layout, found: Found) -> bool:
    if not layout.drop_in:
        return False
    if layout.template:
        # Only a base that imports the directory reads it; k3s has done so since 2026.
        directory = layout.drop_in.rsplit("/", 1)[1]
        imports = re.search(r"^imports\s*=.*$", found.rendered or "", re.MULTILINE)
        return bool(imports and directory in imports[0])
    if layout.name == "k0s":
        return True
    return found.version >= MERGES and _imported(layout, toml.loose(found.config or ""))


def _imported(layout: Layout, config: Mapping[str, Any]) -> bool:
    """Say whether a configuration imports our file. Patterns may be relative to it."""
    home = layout.config.rsplit("/", 1)[0]
    patterns = [one for one in config.get("imports", ()) if isinstance(one, str)]
    absolute = [one if one.startswith("/") else f"{home}/{one}" for one in patterns]
    return any(fnmatch.fnmatch(f"{layout.drop_in}/{DROP_IN}", one) for one in absolute)


def _drop_in(layout: Layout, found: Found) -> list[Change]:
    path = f"{layout.drop_in}/{DROP_IN}"
    main = found.rendered if layout.template else found.config
    config = toml.parse(main or "", layout.rendered or layout.config)
    _allowed(config, layout)
    for other in found.others:
        config = toml.merged(config, toml.loose(other))
    # Version 2, whatever the main file is: 2.3 merges it into files of every version, but version 3 not into version 2.
    text = "# Written by zeropod's installer, taken away by its uninstallation.\nversion = 2\n"
    text += toml.dumps(NRI, {"disable": False, "disable_connections": False})
    text += toml.dumps((*CRI[2], "containerd", "runtimes", HANDLER), _runtime(config))
    changes = [Change(path, found.drop_in, text, "enable NRI and add the runtime")]
    # An older installation may have edited where there is a directory now.
    if found.config is not None and (clean := toml.restored(found.config)) != found.config:
        changes.append(Change(layout.config, found.config, clean, "take out our older lines"))
    return [change for change in changes if change.before != change.after]


def _edit(layout: Layout, found: Found) -> list[Change]:
    text = toml.restored(found.config or "")
    config = toml.parse(text, layout.config)
    number = config.get("version", 0 if config else 2)
    if number not in {2, 3, 4}:
        raise InstallError(
            f"{layout.config} is of version {number or 1}, whose plugins have other names",
            "run `containerd config migrate`, look at the result and put it in its place",
        )
    _allowed(config, layout)
    head = "" if text else "version = 2\n"
    config = config or {"version": 2}
    runtimes = (*CRI[min(number, 3)], "containerd", "runtimes")
    runtime = (*runtimes, HANDLER)
    if toml.at(config, runtime) is not None:
        raise InstallError(
            f"{layout.config} has a runtime {HANDLER} already",
            "the original zeropod is installed here: uninstall it first",
        )
    wanted = _runtime(config)
    expected = toml.merged(config, toml.nested(runtime, wanted))
    block = toml.dumps(runtime, wanted)
    if not toml.at(config, runtimes) and found.version < (2, 0):
        # 1.7 has runc by default as long as no runtime is named; else its CRI does not start (seen with 1.7.24).
        block = toml.dumps((*runtimes, "runc"), RUNC) + block
        expected = toml.merged(expected, toml.nested((*runtimes, "runc"), RUNC))
    block, text, expected = _enable_nri(found, block, text, expected)
    edited = toml.append(text, head + block)
    toml.prove(edited, expected, layout.config, block)
    change = Change(layout.config, found.config, edited, "enable NRI and add the runtime")
    return [change] if change.before != change.after else []


def _allowed(config: Mapping[str, Any], layout: Layout) -> None:
    """See that NRI's and CRI's plugins are not switched off as a whole.

    Raises:
        InstallError: one is.
    """
    off = config.get("disabled_plugins", ())
    for name in ("io.containerd.nri.v1.nri", "io.containerd.grpc.v1.cri", "cri", "nri"):
        if name in off:
            raise InstallError(
                f"disabled_plugins in {layout.config} has {name}",
                "take it out there, restart containerd and run this again",
            )


def _enable_nri(
    found: Found, block: str, text: str, config: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Turn NRI on where it is off: by default up to containerd 1.7, or by somebody's word."""
    known = toml.at(config, NRI)
    if known is None:
        if found.version >= (2, 0):
            return block, text, config
        on = {"disable": False}
        return block + toml.dumps(NRI, on), text, toml.merged(config, toml.nested(NRI, on))
    off = {"disable": found.version < (2, 0), "disable_connections": False}
    for key, default in off.items():
        if known.get(key, default):
            text = toml.assign(text, NRI, key, value=False)
            config = toml.merged(config, toml.nested((*NRI, key), value=False))
    return block, text, config


def _template(layout: Layout, found: Found) -> list[Change]:
    """Edit a Go template: it is no TOML, so that what is there already is looked up in what it was rendered to."""
    text = toml.restored(found.config) if found.config is not None else ""
    rendered = toml.parse(toml.restored(found.rendered or ""), layout.rendered)
    modern = layout.config.endswith("config-v3.toml.tmpl")
    runtime = (*CRI[3 if modern else 2], "containerd", "runtimes", HANDLER)
    block = toml.dumps(runtime, _runtime(rendered))
    nri = toml.at(rendered, NRI)
    if nri is None and not modern:
        block += toml.dumps(NRI, {"disable": False})
    elif nri is not None and nri.get("disable", not modern):
        edited = toml.assign(text, NRI, "disable", value=False)
        if edited == text:
            raise InstallError(
                f"NRI is disabled in {layout.rendered} by the distribution itself",
                f"enable it where that comes from, or write {layout.config} in full",
            )
        text = edited
    edited = toml.append(text or BASE, block)
    change = Change(layout.config, found.config, edited, "enable NRI and add the runtime")
    return [change] if change.before != change.after else []


def _runtime(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return runc's own runtime as the node has it, to be known by our name too."""
    for cri in CRI.values():
        runc = toml.at(config, (*cri, "containerd", "runtimes", "runc"))
        if (
            isinstance(runc, Mapping)
            and runc.get("runtime_type", RUNC["runtime_type"]) == RUNC["runtime_type"]
        ):
            return {**RUNC, **copy.deepcopy(dict(runc))}
    return dict(RUNC)
