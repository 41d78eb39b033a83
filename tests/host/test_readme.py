"""README.md's commands, word for word, on nodes with names of their own. Standard library only: runs on the host."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

#: dev/test runs this test; the cluster's commands are those of docs/getting-started.md, which has a test in tests/e2e.
ELSEWHERE = ("dev/test", "kubectl")

#: Seconds.
LIMIT = 300.0


def commands(section: str) -> list[list[str]]:
    """The commands of a section's console blocks that are run here."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    text = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = [line[2:] for line in block.splitlines() if line[:2] in ("# ", "$ ")]
        found += [shlex.split(line) for line in lines if not line.startswith(ELSEWHERE)]
    return found


class Readme(unittest.TestCase):
    """What somebody types who tries it."""

    def command(self, words: list[str], name: str) -> list[str]:
        """With a node of our own instead of the one that somebody may have."""
        at = 1 if words[0] == "dev/demo" else 2
        return [sys.executable, *words[:at], "--name", name, *words[at:]]

    def run_one(self, words: list[str], name: str) -> str:
        """What it printed; an error if it failed."""
        done = subprocess.run(self.command(words, name), cwd=str(REPOSITORY), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=LIMIT, check=False)  # fmt: skip
        assert not done.returncode, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def test_see_it(self) -> None:
        """The demo says that nothing was lost, in the lines that are shown."""
        [demo] = commands("See it")
        printed = self.run_one(demo, f"demo-{os.getpid()}")
        shown = (REPOSITORY / "README.md").read_text(encoding="utf-8")
        promises = set(re.findall(r"^ +ok: .+$", shown, re.MULTILINE))
        assert len(promises) > 5
        assert promises <= set(printed.splitlines()), printed

    def test_a_node_to_play_with(self) -> None:
        """Started, given a pod, watched until the pod sleeps, and stopped."""
        name = f"readme-{os.getpid()}"
        start, run, watch, stop = commands("Test it")
        self.addCleanup(self.run_one, stop, name)
        self.run_one(start, name)
        # Before the pod is there, so that it cannot have fallen asleep unseen. It ends with the node.
        watcher = subprocess.Popen(self.command(watch, name), cwd=str(REPOSITORY), stdout=subprocess.PIPE,
                                   text=True)  # fmt: skip
        self.addCleanup(watcher.wait)
        asleep = threading.Event()

        def read() -> None:
            assert watcher.stdout
            with watcher.stdout as lines:
                for line in lines:
                    if "-> ASLEEP" in line:
                        asleep.set()

        reader = threading.Thread(target=read)
        reader.start()
        self.addCleanup(reader.join)
        self.addCleanup(
            self.run_one, stop, name
        )  # first of all: who reads and waits goes on until then
        self.run_one(run, name)
        assert asleep.wait(LIMIT), "nobody fell asleep"


if __name__ == "__main__":
    unittest.main()
