"""Which modules an initramfs loads, and in which order."""

from __future__ import annotations

from pathlib import Path

from dev.lib import kernels

#: As depmod writes it: what is needed first is listed last.
DEPENDENCIES = """\
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko:
kernel/lib/crc16.ko:
kernel/drivers/block/virtio_blk.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/fs/ext4/ext4-inode-test.ko: kernel/fs/ext4/ext4.ko
"""


def test_a_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    """Dependencies first, each once; a name in a file's spelling is found; what is absent is left out."""
    (tmp_path / "modules.dep").write_text(DEPENDENCIES)
    assert kernels.order(tmp_path, ("virtio_blk", "ext4", "crc32c_intel", "overlay")) == [
        "kernel/drivers/block/virtio_blk.ko",
        "kernel/lib/crc16.ko",
        "kernel/fs/jbd2/jbd2.ko",
        "kernel/fs/ext4/ext4.ko",
        "kernel/arch/x86/crypto/crc32c-intel.ko",
    ]
