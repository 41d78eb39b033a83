"""The image store: nothing half done is ever seen, nothing is used twice or by the wrong one."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

import pytest
from unit.checkpointer.imaged import ID, facts

from checkpointer import images, manifest, seal
from checkpointer.errors import ImageError
from checkpointer.images import Fence, Image, Store
from checkpointer.kinds import Kind


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "zeropod")


def committed(store: Store, container_id: str = ID) -> Image:
    """Commit a small image."""
    with store.stage(container_id) as staged:
        (staged.path / "pages-1.img").write_bytes(b"x" * 4096)
        return staged.commit(facts(container_id))


def test_a_committed_image_is_found_with_what_it_says(store: Store) -> None:
    """After a commit the store has exactly this image, readable by root alone."""
    image = committed(store)
    assert store.load(ID) == image
    assert store.all() == [ID]
    assert {path.stat().st_mode & 0o777 for path in (image.path, store.root)} == {0o700}


def test_without_a_commit_nothing_is_left(store: Store) -> None:
    """Leaving the stage without a commit removes every byte."""
    with store.stage(ID) as staged:
        (staged.path / "pages-1.img").write_bytes(b"x" * 4096)
    assert (store.all(), store.usage(), store.load(ID)) == ([], 0, None)


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_failed_sync_leaves_nothing(tmp_path: Path, failing: int) -> None:
    """Whichever sync fails (file, manifest, directory, parent), there is no image afterwards."""
    calls = iter(range(1, 100))

    def fsync(fd: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)

    store = Store(tmp_path / "zeropod", fsync)
    with pytest.raises(ImageError, match="No space left"):
        committed(store)
    assert (store.all(), store.usage()) == ([], 0)


def test_a_second_image_does_not_replace_the_first(store: Store) -> None:
    """An image that is still there is not overwritten: it has to be dropped first."""
    first = committed(store)
    with pytest.raises(ImageError):
        committed(store)
    assert store.load(ID) == first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boot_id": "another"}, "before the machine was started"),
        ({"kernel": "another"}, "another kernel"),
        ({"container_id": "another"}, "another container"),
    ],
)
def test_an_image_of_another_world_is_refused(
    store: Store, change: dict[str, str], reason: str
) -> None:
    """An image is for one container on one boot of one kernel."""
    with store.stage(ID) as staged:
        staged.commit(dataclasses.replace(facts(), **change))
    with pytest.raises(ImageError, match=reason):
        store.load(ID)


def test_an_image_without_a_manifest_is_refused(store: Store) -> None:
    """A directory that lost its manifest is an error, not the absence of an image."""
    (committed(store).path / manifest.NAME).unlink()
    with pytest.raises(ImageError, match="no manifest"):
        store.load(ID)


def test_an_image_is_what_it_was(store: Store) -> None:
    """Whatever a file has become since the commit is found before criu sees it; what is beside them is not looked at."""
    with store.stage(ID) as staged:
        (staged.path / "core-2.img").write_bytes(b"uvw")
        (staged.path / "pages-1.img").write_bytes(bytes(4096))
        (staged.path / "ghost-file-1.img").write_bytes(bytes(2 << 20))
        (staged.path / "dump.log").write_bytes(b"still being written")
        image = staged.commit(dataclasses.replace(facts(), files=seal.seals(staged.path)))
    assert set(image.manifest.files) == {"core-2.img", "pages-1.img", "ghost-file-1.img"}
    (image.path / "restore.log").write_text("x")
    (image.path / "core-9.img").write_text("x")
    image.verify()
    for name in image.manifest.files:
        good = (image.path / name).read_bytes()
        for bad in (good[:-1], good + b"x"):
            (image.path / name).write_bytes(bad)
            with pytest.raises(ImageError, match=f"{name} has {len(bad)} bytes") as caught:
                image.verify()
            assert caught.value.kind is Kind.IMAGE_CORRUPT
        (image.path / name).unlink()
        with pytest.raises(ImageError, match=f"{name} cannot be read"):
            image.verify()
        (image.path / name).write_bytes(good)
    (image.path / "core-2.img").write_bytes(b"xyz")
    with pytest.raises(ImageError, match=r"core-2\.img has another content"):
        image.verify()


def test_what_was_written_before_the_freeze_is_part_of_the_image(store: Store) -> None:
    """It is counted, synced and sealed like the rest, and goes with it."""
    with store.stage(ID) as staged, store.stage(ID) as earlier:
        (earlier.path / "pages-1.img").write_bytes(bytes(4096))
        (staged.path / "pages-1.img").write_bytes(bytes(1))
        staged.take_in(earlier, "pre")
        (staged.path / "parent").symlink_to("pre")
        assert images.pages(staged.path) == 4097
        image = staged.commit(dataclasses.replace(facts(), files=seal.seals(staged.path)))
    assert set(image.manifest.files) == {"pages-1.img", "pre/pages-1.img"}
    image.verify()
    (image.path / "pre" / "pages-1.img").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"pre/pages-1\.img has 1 bytes"):
        image.verify()
    image.drop()
    assert store.usage() == 0


def test_images_of_another_boot_go_at_once(tmp_path: Path) -> None:
    """Nobody can be left to wake from them; what cannot be read stays until it is known whose it is."""
    store = Store(tmp_path / "zeropod")
    committed(store, "this")
    (committed(store, "odd").path / manifest.NAME).write_text("?")
    with store.stage("another") as staged:
        staged.commit(dataclasses.replace(facts("another"), boot_id="another"))
    assert Store(tmp_path / "zeropod").all() == ["odd", "this"]


def test_the_fence_goes_one_way(store: Store) -> None:
    """A restore may be begun again, and again, until the application was let go; then never more."""
    image = committed(store)
    assert image.fence_state() is Fence.NONE
    image.begin()
    assert image.fence_state() is Fence.BEGUN
    image.withdraw()
    assert image.fence_state() is Fence.NONE
    image.begin()
    image.release()
    assert image.fence_state() is Fence.RELEASED
    with pytest.raises(ImageError, match="has run on since"):
        image.begin()


def test_a_fence_takes_no_space(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a restore has come is told without a new file or block: a full disk costs no wake."""
    image = committed(store)
    before = set(image.path.iterdir())

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    image.begin()
    image.withdraw()
    image.begin()
    image.release()
    image.reopen()
    assert image.fence_state() is Fence.BEGUN
    assert set(image.path.iterdir()) == before
    assert {"fence", "restore.log", "stats-restore"} <= {path.name for path in before}


def test_a_fence_that_says_nothing_known_is_closed(store: Store) -> None:
    """Of an image that somebody has tampered with nothing is restored."""
    image = committed(store)
    (image.path / "fence").chmod(0o755)
    assert image.fence_state() is Fence.RELEASED


@pytest.mark.parametrize(
    ("files", "fence"),
    [
        ((), Fence.NONE),
        (("restore.begun",), Fence.BEGUN),
        (("restore.begun", "restore.released"), Fence.RELEASED),
    ],
)
def test_fences_of_the_first_version_hold(
    store: Store, files: tuple[str, ...], fence: Fence
) -> None:
    """An image that an earlier version began to use is seen as it left it, and used on as it is now."""
    image = committed(store)
    (image.path / "fence").unlink()
    for name in files:
        (image.path / name).touch()
    assert image.fence_state() is fence
    if fence is Fence.RELEASED:
        with pytest.raises(ImageError, match="has run on since"):
            image.begin()
        image.reopen()
    else:
        image.begin()
    assert image.fence_state() is Fence.BEGUN
    image.withdraw()
    assert image.fence_state() is Fence.NONE


def test_dropping_twice_is_fine(store: Store) -> None:
    """A dropped image is gone; dropping it again does nothing."""
    image = committed(store)
    image.drop()
    image.drop()
    store.drop(ID)
    assert (store.load(ID), store.usage()) == (None, 0)


def test_an_image_goes_although_there_is_no_room_for_another_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename may need a block of the directory; to remove an image is how a full disk gets room again."""
    image = committed(store)

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    image.drop()
    assert store.load(ID) is None
    assert store.usage() == 0


def test_a_stale_image_that_cannot_be_removed_does_no_harm(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its application runs, and must not be ended for it; the next sleep, which needs its place, fails."""
    image = committed(store)

    def readonly(*_: object) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", readonly)
    image.drop()
    with pytest.raises(ImageError, match="Read-only") as caught:
        store.drop(ID)
    assert caught.value.kind is Kind.IMAGE_UNWRITABLE


def test_a_log_that_cannot_be_kept_is_let_go(store: Store, tmp_path: Path) -> None:
    """Whoever keeps a log has an application to bring back: a full disk must not stop that."""
    (store.root / "failed").rmdir()
    log = tmp_path / "dump.log"
    log.write_text("x")
    assert store.failures.keep_log(ID, log) is None


def test_few_failures_are_kept(store: Store) -> None:
    """Of many failed images the newest few stay."""
    for number in range(7):
        committed(store, f"c{number}")
        store.fail(f"c{number}")
    kept = {path.name.partition("~")[0] for path in (store.root / "failed").iterdir()}
    assert kept == {"c3", "c4", "c5", "c6"}
    assert store.all() == []


def test_logs_do_not_drive_images_out(store: Store, tmp_path: Path) -> None:
    """A sleep that fails again and again leaves a log each time; the one image of a lost application stays."""
    committed(store)
    kept = store.fail(ID)
    assert kept is not None
    (tmp_path / "dump.log").write_text("x")
    for _ in range(20):
        store.failures.keep_log("other", tmp_path / "dump.log")
    assert kept.exists()
    assert len(list((store.root / "failed").iterdir())) == 9


def test_failures_are_not_kept_for_ever(store: Store) -> None:
    """A day later they are gone, whoever looks first; an image of memory is large, and secret."""
    committed(store)
    kept = store.fail(ID)
    assert kept is not None
    store.failures.bound()
    assert kept.exists()
    kept.rename(kept.with_name(f"{ID}~{time.time_ns() - 25 * 3600 * 10**9}"))
    Store(store.root)
    assert list((store.root / "failed").iterdir()) == []


def test_a_kept_log_is_bounded(store: Store, tmp_path: Path) -> None:
    """Of a long log only the tail is kept."""
    log = tmp_path / "dump.log"
    log.write_bytes(b"a" * 1_000_000 + b"end")
    kept = store.failures.keep_log(ID, log)
    assert kept is not None
    assert len(kept.read_bytes()) < 100_000
    assert kept.read_bytes().endswith(b"end")
    assert store.failures.keep_log(ID, tmp_path / "none") is None


def test_garbage_is_what_nobody_owns(store: Store) -> None:
    """Images of containers that are no more go; the others stay."""
    for container_id in ("a", "b", "c"):
        committed(store, container_id)
    assert store.gc({"b", "x"}) == ["a", "c"]
    assert store.all() == ["b"]


def test_a_new_store_sweeps_up_after_the_dead(tmp_path: Path) -> None:
    """What a daemon that ended left in staging is removed; what a living one makes is not."""
    root = tmp_path / "zeropod"
    living = Store(root).stage(ID)
    dead = root / "staging" / f"{ID}~999999999~1~1"
    dead.mkdir()
    strange = root / "staging" / "whatever"
    strange.mkdir()
    Store(root)
    assert list((root / "staging").iterdir()) == [living.path]
    with living:
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a" * 200])
def test_an_id_is_no_path(store: Store, name: str) -> None:
    """What could lead out of the store is not an id."""
    with pytest.raises(ImageError, match="not a container id"):
        store.load(name)


def test_pages_are_counted_apart(store: Store) -> None:
    """The memory in an image is what its pages files hold."""
    image = committed(store)
    (image.path / "core-2.img").write_bytes(b"y" * 100)
    assert images.pages(image.path) == 4096
    assert images.size(image.path) > 4196
