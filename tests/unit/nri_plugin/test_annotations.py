"""From a pod's annotations to what its owner wants."""

import pytest

from nri_plugin import annotations

PREFIX = "zeropod.ctrox.dev/"


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"app": "web", "kubernetes.io/config.source": "api"},
        {"status.zeropod.ctrox.dev/web": "RUNNING"},
        {"zeropod.ctrox.dev": "5s", "xzeropod.ctrox.dev/scaledown-duration": "5s"},
    ],
)
def test_a_pod_without_our_keys_is_none_of_ours(others):
    """Neither absence nor similar keys make a pod a wanted one, whatever runtime it uses."""
    assert annotations.read(others, "") is None
    assert annotations.read(others, "gvisor") is None


def test_the_runtime_handler_alone_is_enough():
    """As with the original, the runtime class opts in, with the original's default."""
    wish = annotations.read({}, "zeropod")
    assert (wish.policy["scaledown"], wish.reason) == (60.0, "")


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("0", 0), ("1h30m", 5400)])
def test_the_scaledown_duration_is_read(text, seconds):
    """Written as a Go duration, read as seconds; 0 is never, and still managed."""
    wish = annotations.read({PREFIX + "scaledown-duration": text, "other": "x"}, "")
    assert (wish.policy["scaledown"], wish.reason) == (seconds, "")
    assert wish.annotations == {PREFIX + "scaledown-duration": text}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scaledown-duration", "soon"),
        ("scaledown-duration", "-5s"),
        ("scaledown-duration", ""),
        ("scale-down-duration", "5s"),
        ("", "x"),
        ("pre-dump", "true"),
        ("ports-map", "c1=80"),
        ("container-names", "web"),
    ],
)
def test_what_cannot_be_granted_names_key_value_and_remedy(key, value):
    """A mistake is never guessed around: the reason tells its author where it stands."""
    wish = annotations.read({PREFIX + key: value}, "")
    assert PREFIX + key in wish.reason
    assert repr(value) in wish.reason
    assert any(word in wish.reason for word in ("write", "remove"))


def test_one_bad_key_spoils_the_good_ones():
    """Half a wish is not granted: the part that failed may be the one that keeps it safe."""
    keys = {PREFIX + "scaledown-duration": "5s", PREFIX + "pre-dump": "false"}
    assert "not supported yet" in annotations.read(keys, "zeropod").reason


def test_a_long_value_does_not_flood_the_reason():
    """Annotations may be 256 KiB long; reasons are read by people."""
    assert len(annotations.read({PREFIX + "nonsense": "x" * 200_000}, "").reason) < 300
