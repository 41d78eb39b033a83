"""Mount points, as the exec watch marks them."""

from checkpointer.execwatch import mount_points


def test_mount_points_are_unescaped_bytes():
    """Blanks and newlines come as octal (proc(5)), other bytes as they are."""
    text = (
        "21 20 0:20 / / rw - overlay overlay rw\n"
        "22 21 0:21 / /mnt/a\\040b\\134c rw shared:1 - tmpfs tmpfs rw\n"
        "23 21 0:22 / /daten/ä rw - tmpfs tmpfs rw\n"
    )

    assert mount_points(text) == [b"/", b"/mnt/a b\\c", "/daten/ä".encode()]


def test_mount_points_need_not_be_text():
    """A name is any bytes; read with surrogateescape they come out as they were."""
    line = b"22 21 0:21 / /mnt/\xff rw - tmpfs tmpfs rw".decode(errors="surrogateescape")

    assert mount_points(line) == [b"/mnt/\xff"]
