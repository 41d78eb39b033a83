"""How much images may take: of the disk, of the node, and of what their owners allow."""

import os
from pathlib import Path

import pytest

from checkpointer import __main__, processes
from checkpointer.budget import Budget, Disk
from checkpointer.errors import Refused
from checkpointer.kinds import Kind
from checkpointer.quantities import Bytes, Share

GIB = 1 << 30
DISK = Disk(Path("/images"), 100 * GIB, 20 * GIB, 10000, 1000)
LIMITS = Budget(Share("16%"), Share("6%"), Bytes(0))


def refused(limits, image, *, most=0, disk=DISK, stored=0, to_come=True):
    """The kind and words of a refusal; None if there is room."""
    try:
        limits.check(image, most, disk, stored=stored, to_come=to_come)
    except Refused as error:
        return error.kind, error.reason
    return None


def test_what_fits_is_agreed_to():
    """Up to the last byte of each limit."""
    assert refused(LIMITS, 4 * GIB) is None
    assert refused(LIMITS, GIB, most=GIB) is None
    limited = Budget(Share("16%"), Share("6%"), Bytes("5Gi"))
    assert refused(limited, 2 * GIB, stored=3 * GIB) is None
    assert refused(limited, 2 * GIB, stored=5 * GIB, to_come=False) is None


@pytest.mark.parametrize(
    ("limits", "image", "facts", "kind", "remedy"),
    [
        (LIMITS, 5 * GIB, {}, Kind.DISK_LOW, "free space"),
        (LIMITS, GIB, {"most": GIB - 1}, Kind.IMAGE_SIZE, "max-image-size"),
        (Budget(*(Share(0),) * 2, Bytes(GIB)), GIB, {"stored": 1}, Kind.IMAGE_BUDGET, "raise"),
        (
            Budget(*(Share(0),) * 2, Bytes(GIB)),
            1,
            {"stored": GIB + 1, "to_come": False},
            Kind.IMAGE_BUDGET,
            "--image-budget",
        ),
        (
            LIMITS,
            1,
            {"disk": Disk(Path("/images"), GIB, GIB, 10000, 620)},
            Kind.INODES_LOW,
            "remove files",
        ),
        (
            LIMITS,
            GIB,
            {"disk": Disk(Path("/images"), 100, 15, 0, 0), "to_come": False},
            Kind.DISK_LOW,
            "--disk-reserve of 16%",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(limits, image, facts, kind, remedy):
    """Each limit says its name, both sizes and what to do."""
    found = refused(limits, image, **facts)

    assert found is not None
    assert found[0] is kind
    assert remedy in found[1]


def test_a_disk_that_counts_no_inodes_has_enough():
    """Such as btrfs, which reports none at all."""
    assert refused(LIMITS, GIB, disk=Disk(Path("/images"), 100 * GIB, 50 * GIB, 0, 0)) is None


def test_the_disk_is_that_of_the_directory(tmp_path):
    """What is said of it is what statvfs says."""
    disk = Disk.of(tmp_path)

    assert disk.path == tmp_path
    assert 0 < disk.free <= disk.bytes


@pytest.mark.parametrize(
    ("text", "count", "shown"),
    [("0", 0, "0"), ("1023", 1023, "1023"), ("512Mi", 512 << 20, "512Mi"), ("1.5Gi", 3 << 29, "1.5Gi"), ("2k", 2000, "2Ki")],
)  # fmt: skip
def test_bytes_have_units(text, count, shown):
    """As Kubernetes writes them, and back in binary ones."""
    assert Bytes(text) == count
    assert str(Bytes(text)) == shown


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "-1", "1GB"])
def test_what_is_no_number_of_bytes_is_said(text):
    """And not taken for another one."""
    with pytest.raises(ValueError, match="512Mi"):
        Bytes(text)


@pytest.mark.parametrize(("text", "part"), [("12%", 0.12), ("0.5", 0.5), ("0", 0.0), ("0%", 0.0)])
def test_parts_are_read(text, part):
    """In percent or below 1."""
    assert Share(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["100%", "12", "-1%", "x"])
def test_what_is_no_part_is_said(text):
    """A reserve of the whole disk, or of more, would let nothing sleep."""
    with pytest.raises(ValueError, match=r"part|float"):
        Share(text)


def test_the_daemon_takes_them_from_its_command_line(capsys):
    """With units, and shows its defaults so."""
    chosen = __main__._parse(["--disk-reserve", "20%", "--image-budget", "10Gi"])

    assert (chosen.disk_reserve, chosen.image_budget) == (0.2, 10 * GIB)
    with pytest.raises(SystemExit):
        __main__._parse(["--disk-reserve", "120%"])
    with pytest.raises(SystemExit):
        __main__._parse(["--help"])
    assert "(default: 16%)" in " ".join(capsys.readouterr().out.split())


def test_an_image_is_estimated_by_what_is_no_files():
    """Memory that a process has written to is counted, also when it is shared; mapped files are not."""
    before = processes.memory(os.getpid())
    ballast = bytearray(32 << 20)
    after = processes.memory(os.getpid())

    assert len(ballast) == 32 << 20
    assert 30 << 20 < after.private - before.private < 40 << 20
