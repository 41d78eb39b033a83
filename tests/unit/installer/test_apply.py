"""Configurations and restarts, and the way back when one does not come up."""

import json
import os
import shutil

import pytest
from unit.installer.steps import CONFIG, apply, ship, take_out

from installer import __main__ as main
from installer import checks, containerd, journal, payload, runtime, trial
from installer.errors import InstallError
from installer.host import Host


def test_containerd_is_restarted_once(node):
    """When something has changed, and not again."""
    apply(node)
    assert node.restarts() == ["containerd"]
    assert apply(node) == []
    assert node.restarts() == ["containerd"]


def test_what_was_there_is_kept_beside_it(node):
    """From before the first installation, not from before the last."""
    apply(node)
    node.put(CONFIG, node.read(CONFIG).replace("disable = false", "disable = true"))
    apply(node)

    assert node.read(CONFIG + containerd.BACKUP) == "version = 2\n"


def test_a_containerd_that_does_not_come_up_gets_its_old_configuration_back(node):
    """And is restarted with it; the reason says so."""
    node.comes_up[:] = [False, True]
    with pytest.raises(InstallError, match="the old one is back"):
        apply(node)

    assert node.read(CONFIG) == "version = 2\n"
    assert node.restarts() == ["containerd", "containerd"]
    assert node.answers("/run/containerd/containerd.sock")


def test_what_has_failed_is_not_tried_all_the_time(node):
    """A pod that fails is started again and again, and each try restarts containerd twice."""
    node.comes_up[:] = [False, True]
    with pytest.raises(InstallError, match="the old one is back"):
        apply(node, date=lambda: 1000.0)
    with pytest.raises(InstallError, match=r"less than an hour ago: .*nobody answers") as told:
        apply(node, date=lambda: 1000.0 + runtime.AGAIN - 1)
    assert payload.OPT in told.value.remedy
    assert node.read(CONFIG) == "version = 2\n"
    assert node.restarts() == ["containerd", "containerd"]
    assert apply(node, date=lambda: 1001.0 + runtime.AGAIN)


def test_what_has_failed_is_tried_again_when_the_node_has_changed(node):
    """Somebody has mended it."""
    node.comes_up[:] = [False, True]
    with pytest.raises(InstallError, match="the old one is back"):
        apply(node)
    node.put(CONFIG, "version = 2\n# mended\n")
    assert apply(node)


def test_the_journal_is_for_root_alone(node):
    """And so is what is kept of a file that was: passwords of registries are in there."""
    node.real(CONFIG).chmod(0o600)
    apply(node)
    known = node.real(f"{payload.OPT}/{journal.NAME}")

    assert known.stat().st_mode & 0o777 == 0o600
    assert node.real(CONFIG + containerd.BACKUP).stat().st_mode & 0o777 == 0o600
    assert "pending" not in json.loads(known.read_text())


def test_a_configuration_that_containerd_reads_otherwise_is_taken_back(node):
    """Before a restart: it may import files that say something else."""
    node.put("/dump", "[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n")
    with pytest.raises(InstallError, match="NRI is still disabled"):
        apply(node)

    assert node.read(CONFIG) == "version = 2\n"
    assert node.restarts() == []


def test_a_containerd_without_its_cri_is_not_taken_for_a_good_one(node):
    """It listens all the same, and the node would be lost."""
    node.put("/usr/bin/ctr", "").put("/plugins", "io.containerd.grpc.v1 cri linux/amd64 error\n")
    with pytest.raises(InstallError, match=r"without io\.containerd\.grpc\.v1\.cri"):
        apply(node)
    assert node.read(CONFIG) == "version = 2\n"


def test_an_nri_that_does_not_answer_although_nothing_changed_is_told(node):
    """Somebody has edited and not restarted; to restart unasked would be ours only after a change of ours."""
    apply(node)
    node.close()
    with pytest.raises(InstallError, match="restart containerd"):
        apply(node)
    assert node.restarts() == ["containerd"]


def test_a_node_without_systemd_is_told(node):
    """Nothing is changed there, unless we are told how to restart containerd."""
    shutil.rmtree(node.real("/run/systemd"))
    with pytest.raises(InstallError, match="--restart"):
        apply(node)
    assert node.read(CONFIG) == "version = 2\n"

    apply(node, command="rc-service containerd restart")
    assert ("sh", "-c", "rc-service containerd restart") in node.log
    assert "zeropod" in node.read(CONFIG)


def test_the_way_back_that_fails_is_told(node):
    """Rather than that all is as before."""
    node.comes_up[:] = [False]
    with pytest.raises(InstallError, match="does not run with that either"):
        apply(node)
    assert node.read(CONFIG) == "version = 2\n"


def test_what_does_not_run_is_not_restarted_by_an_uninstallation(node):
    """Its configuration is as before when it starts."""
    apply(node)
    node.close()
    before = node.restarts()
    take_out(node)

    assert node.read(CONFIG) == "version = 2\n"
    assert node.restarts() == before


def test_two_installers_do_not_work_at_once(node, source):
    """A pod's and a person's."""
    ship(node, source)
    with (
        node.locked(payload.OPT),
        pytest.raises(InstallError, match="another installer"),
        node.locked(payload.OPT),
    ):
        pass


def test_a_configuration_that_cannot_be_written_is_told(node):
    """Talos and Bottlerocket keep it elsewhere; root can write everything but below a file."""
    with pytest.raises(InstallError, match="by hand"):
        node.write("/usr/bin/containerd/config.toml", "")


def test_mode_and_owner_of_a_file_stay(node):
    """Somebody has thought about them."""
    real = node.real(CONFIG)
    real.chmod(0o600)
    apply(node)
    assert real.stat().st_mode & 0o777 == 0o600
    assert real.stat().st_uid == os.getuid()


def test_links_are_followed_inside_of_the_node(tmp_path):
    """An absolute one starts at the node's root, not at ours, and none leads out."""
    node = Host(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/containerd").symlink_to("/real")
    (tmp_path / "etc/out").symlink_to("../../../../../real")
    (tmp_path / "etc/round").symlink_to("round")

    assert node.real("/etc/containerd/config.toml") == tmp_path / "real/config.toml"
    assert node.real("/etc/out/x") == tmp_path / "real/x"
    with pytest.raises(InstallError, match="circles"):
        node.real("/etc/round/x")


@pytest.mark.parametrize(
    ("release", "ok"),
    [("6.12.1-amd64", True), ("5.10.0", True), ("5.4.0-150", False), ("odd", False)],
)
def test_kernels_are_judged(release, ok):
    """And an old one is told which it should be."""
    found = checks.kernel(release)
    assert found.ok is ok
    assert ok or "5.10" in found.remedy


def test_a_criu_that_does_not_work_is_told(tmp_path):
    """A bundle that is not there is the image's fault, and no traceback."""
    found = checks.criu(tmp_path)
    assert not found.ok
    assert found.remedy


def test_a_criu_that_says_why_is_quoted(tmp_path, monkeypatch):
    """The telling line of its log; and it is tried again, because another process may have had the pid."""
    monkeypatch.setattr(trial, "TRIES", 2)
    (tmp_path / "criu").write_text("")
    (tmp_path / "ld.so").write_text(
        "#!/bin/sh\necho tried >>" + str(tmp_path / "tries") + "\n"
        'while [ "$1" != -o ]; do shift; done; echo "Error (x.c:1): no such thing" >"$2"; exit 1\n'
    )
    (tmp_path / "ld.so").chmod(0o755)
    told = checks.criu(tmp_path)

    assert "no such thing" in told.found
    assert (tmp_path / "tries").read_text().count("tried") == 2


def test_the_plan_changes_nothing(node, source, monkeypatch, capsys):
    """It names the files, shows the edits as a diff, and says what is restarted."""
    monkeypatch.setattr(main, "Host", lambda _: node)
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    before = node.files()
    assert main.main(["install", "--plan", f"--payload={source}"]) == main.DONE
    told = capsys.readouterr().out

    assert "write: /opt/zeropod/container/init" in told
    assert "+[plugins" in told
    assert "restart one of containerd" in told
    assert "modprobe tun" in told
    assert node.files() == before
    assert [argv for argv in node.log if argv[-1] != "--version"] == []


def test_the_plan_of_an_uninstallation_changes_nothing(node, source, monkeypatch, capsys):
    """It is the same backwards."""
    monkeypatch.setattr(main, "Host", lambda _: node)
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    ship(node, source)
    apply(node)
    before = node.files()
    assert main.main(["uninstall", "--plan"]) == main.DONE
    told = capsys.readouterr().out

    assert "remove: /opt/zeropod/versions" in told
    assert "-[plugins" in told
    assert node.files() == before


def test_a_configuration_that_is_read_only_is_left_alone(node):
    """The way back does not stumble over it, and nothing is restarted."""
    directory = node.real("/etc/containerd")
    directory.chmod(0o555)
    try:
        if os.access(directory, os.W_OK):
            pytest.skip("root can write everything")
        with pytest.raises(InstallError, match="by hand"):
            apply(node)
    finally:
        directory.chmod(0o755)

    assert node.restarts() == []
    assert node.read(CONFIG) == "version = 2\n"
    assert journal.Journal(node, payload.OPT).pending is None
