"""Archives of images: the same content is the same digest."""

import hashlib
import json
import os
import tarfile

import pytest

from dev.lib import headers, oci
from dev.lib.errors import DevError


def tree(folder, order=1):
    """A directory with a program, a link and a file; made in one order or the other."""
    folder.mkdir()
    for name in ("b", "a/c")[::order]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "b").chmod(0o755)
    (folder / "link").symlink_to("a/c")
    return folder


def blob(archive, digest):
    with tarfile.open(archive) as tar:
        return tar.extractfile("blobs/sha256/" + digest.partition(":")[2]).read()


def test_a_layer_does_not_depend_on_when_it_was_made(tmp_path):
    """Times and the order of a directory's entries are no part of it; modes and links are."""
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other", order=-1)
    os.utime(other / "b", (1, 1))
    for folder in (one, other):
        oci.pack(folder, folder.with_suffix(".tar"), time=7)
    with tarfile.open(tmp_path / "one.tar") as tar:
        found = {
            item.name: (item.mode & 0o777, item.linkname, item.mtime, item.uid) for item in tar
        }

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()
    assert list(found) == ["a", "a/c", "b", "link"]
    assert found["b"] == (0o755, "", 7, 0)
    assert found["link"][1] == "a/c"


def test_an_archive_is_what_the_specification_says(tmp_path):
    """Every digest and size is that of the blob it names, from the index down to the layers."""
    layer = tmp_path / "layer.tar"
    oci.pack(tree(tmp_path / "tree"), layer)
    digest = oci.write(
        tmp_path / "image.tar", "localhost/a:1", [layer, b"second"], {"Cmd": ["a"]}, architecture="amd64"
    )  # fmt: skip
    manifest = json.loads(blob(tmp_path / "image.tar", digest))
    for entry in [manifest["config"], *manifest["layers"]]:
        data = blob(tmp_path / "image.tar", entry["digest"])

        assert hashlib.sha256(data).hexdigest() == entry["digest"].partition(":")[2]
        assert len(data) == entry["size"]
    config = json.loads(blob(tmp_path / "image.tar", manifest["config"]["digest"]))

    assert config["rootfs"]["diff_ids"] == [entry["digest"] for entry in manifest["layers"]]
    assert blob(tmp_path / "image.tar", manifest["layers"][0]["digest"]) == layer.read_bytes()


def half(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def halves(tmp_path):
    """Header packages with all that bcc includes by itself, and some more."""
    known = {
        ("arch/x86/include/" if name.startswith("asm/") else "include/") + name: ""
        for name in headers.BCC
    }
    special = half(tmp_path / "special", {"include/generated/autoconf.h": ""})
    common = half(tmp_path / "common", {
        **known,
        "include/linux/kconfig.h": "#include <generated/autoconf.h>\n",
        "include/uapi/linux/ip.h": '# include "beside.h"\n#include <linux/missing.h>\n',
        "include/uapi/linux/beside.h": "",
        "include/linux/unused.h": "",
    })  # fmt: skip
    return [special, common]


def test_only_headers_that_can_be_reached_are_taken(halves, tmp_path):
    """From what bcc and our programs include, over both halves; what is nowhere is somebody else's."""
    program = tmp_path / "program.c"
    program.write_text('#include <uapi/linux/ip.h>\n#include "ours.h"\n')
    found = headers.reached(halves, "amd64", [program])

    assert found["include/generated/autoconf.h"].is_relative_to(halves[0])
    assert {"include/uapi/linux/ip.h", "include/uapi/linux/beside.h"} <= found.keys()
    assert "include/linux/unused.h" not in found


def test_headers_of_something_else_are_an_error(halves):
    """It says which are missing."""
    (halves[1] / "include/linux/log2.h").unlink()

    with pytest.raises(DevError, match=r"no linux/log2\.h"):
        headers.reached(halves, "amd64", [])
