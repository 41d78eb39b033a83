"""Mount points, as the exec watch marks them."""

from checkpointer.execwatch import mount_number, mount_points


def test_mount_points_are_unescaped_bytes():
    """Blanks and newlines come as octal (proc(5)), other bytes as they are."""
    text = (
        "21 20 0:20 / / rw - overlay overlay rw\n"
        "22 21 0:21 / /mnt/a\\040b\\134c rw shared:1 - tmpfs tmpfs rw\n"
        "23 21 0:22 / /daten/ä rw - tmpfs tmpfs rw\n"
    )

    assert mount_points(text) == [(21, b"/"), (22, b"/mnt/a b\\c"), (23, "/daten/ä".encode())]


def test_mount_points_need_not_be_text():
    """A name is any bytes; read with surrogateescape they come out as they were."""
    line = b"22 21 0:21 / /mnt/\xff rw - tmpfs tmpfs rw".decode(errors="surrogateescape")

    assert mount_points(line) == [(22, b"/mnt/\xff")]


def test_the_mount_of_an_open_file_is_told():
    """By the number that mountinfo has, too."""
    assert mount_number("pos:\t0\nflags:\t012100000\nmnt_id:\t317\nino:\t2\n") == 317
    assert mount_number("pos:\t0\n") == 0
