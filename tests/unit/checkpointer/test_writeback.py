"""Images are written out early; whether that works is fsync's to say."""

from __future__ import annotations

import os
from pathlib import Path

from checkpointer import writeback


def test_all_files_of_an_image_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Files of a pre-dump are an image's, too; what a link or a fifo leads to is not."""
    (tmp_path / "pre").mkdir()
    for name in ("pages-1.img", "pre/pages-1.img", "files.img"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "parent").symlink_to("pre")
    (tmp_path / "link").symlink_to("files.img")
    os.mkfifo(tmp_path / "fifo")
    found = {str(Path(path).relative_to(tmp_path)) for path in writeback.files(tmp_path)}
    assert found == {"pages-1.img", "pre/pages-1.img", "files.img"}


def test_nothing_is_changed(tmp_path: Path) -> None:
    """A file that is begun with has the same content, and may still be written to."""
    path = tmp_path / "pages-1.img"
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        writeback.begin(tmp_path)
        file.write(b"y")
    assert path.read_bytes() == b"x" * 100_000 + b"y"


def test_a_directory_that_goes_is_no_error(tmp_path: Path) -> None:
    """A dump that fails removes its directory, and hears nothing of that from here."""
    directory = tmp_path / "staged"
    directory.mkdir()
    with writeback.Meanwhile(directory) as meanwhile:
        directory.rmdir()
        meanwhile.end()
