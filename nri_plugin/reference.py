"""docs/annotations.md, from the table of annotations: `python3 -m nri_plugin.reference > docs/annotations.md`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from nri_plugin.annotation import ORIGINAL, OURS, PREFIX, Annotation
from nri_plugin.annotations import TABLE

_WIDTH = 120

_HEAD = f"""
# Annotations

What the owner of a pod wants of zeropod stands in the pod's annotations, below `{PREFIX}`. One of them, or
`runtimeClassName: zeropod`, is enough to have the pod's containers managed.

```yaml
metadata:
  annotations:
    {PREFIX}scaledown-duration: 5m
    {PREFIX}container-names: web
```

This file is generated: `python3 -m nri_plugin.reference > docs/annotations.md`.

## Rules for all of them

- They are read when a container is created, from the pod as it was created: a change takes a new pod.
- Nothing, or nothing but white space, means the default. White space around a value and around the items of a list is
  passed over.
- A mistake is never guessed around: a key that does not exist, a value that means nothing, a name or port that stands
  twice in a list, two keys that contradict each other. The pod runs as if zeropod were not there, and
  `zeropod why NAMESPACE/POD` tells which key and value it is, what is allowed, and which key was perhaps meant.
- What is accepted and changes nothing is told by `zeropod why` as a note. `zeropod list` shows what differs from the
  default.
"""

_ORIGINAL = """
## The original zeropod's

Pods written for the original need no change. What differs:

- An annotation is enough, `runtimeClassName: zeropod` is not needed.
- An unknown key below the prefix is a mistake, not passed over.
- A value that cannot be read leaves the container unmanaged; the original fails its creation.
- A port 0, a negative `scaledown-duration`, and a port or container that stands twice in one list are mistakes.
- White space around items is passed over; to the original it is part of them.
- `ports-map` also takes UDP ports.
"""

_OURS = """
## Ours
"""

_CONTAINERS = """
## Several containers in a pod

Each container sleeps and wakes alone, by its own ports. Packets from its neighbours, over localhost too, wake it like
any others. A container that `container-names` does not name is not touched and stays awake.

The runtime does not tell which kind of container it starts, so that these are treated like all others:

- **Init containers** run under the supervisor. They listen on no port, so they never sleep, and end with their own exit
  code. One that does listen and waits for somebody sleeps when it is idle; leave it out with `container-names`.
- **Sidecars** (init containers with `restartPolicy: Always`) sleep and wake as any container.
- **Ephemeral containers** (`kubectl debug`) with a terminal, or with `--target`, are unmanaged: neither can be
  checkpointed. Others run under the supervisor and, listening on no port, stay awake. The pod's other containers go on
  sleeping and waking beside them, the one that `--target` names too: asleep it has no process to look at, and an exec
  into it or `zeropod wake` brings it back.

A container that ended within 10 s, and not with exit code 0, runs without the supervisor the next time
(`zeropod why` says so): if the supervisor was the cause, it now runs. Leave it out with `container-names` to keep it so
for good.
"""


def document() -> str:
    """Return the text of docs/annotations.md."""
    parts = [
        _HEAD,
        _overview(),
        _ORIGINAL,
        *_entries(ORIGINAL),
        _OURS,
        *_entries(OURS),
        _CONTAINERS,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _overview() -> str:
    rows = [f"| `{one.name}` | {one.origin} | {one.form} | {_default(one)} |" for one in TABLE]
    return "\n".join(
        ["## Overview\n", "| Key | Whose | Value | Default |", "|---|---|---|---|", *rows]
    )


def _entries(origin: str) -> Iterator[str]:
    for one in TABLE:
        if one.origin == origin:
            yield f"### `{one.key}`\n\n{_wrap(one.text)}\n\n{_facts(one)}"


def _facts(one: Annotation) -> str:
    facts = (
        f"value: {one.form}",
        f"default: {_default(one)}",
        f"example: `{one.example}`",
        f"since {one.since}",
    )
    return "\n".join(f"- {fact}" for fact in facts)


def _default(one: Annotation) -> str:
    return f"`{one.default}`" if one.default else "nothing"


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(document())
