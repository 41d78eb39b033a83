"""From a pod's annotations to what is wanted for one of its containers."""

import json

import pytest

from nri_plugin import wishes
from nri_plugin.annotation import PREFIX
from nri_plugin.annotations import BY_NAME, DEFAULTS, TABLE


def read(container="web", handler="", **annotations):
    pod = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    return wishes.read(pod, handler, container)


def policy(**annotations):
    wish = read(**annotations)
    assert wish.reason == ""
    return {name: value for name, value in wish.policy.items() if value != DEFAULTS[name]}


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"app": "web", "kubernetes.io/config.source": "api"},
        {"status.zeropod.ctrox.dev/web": "RUNNING"},
        {"zeropod.ctrox.dev": "5s", "xzeropod.ctrox.dev/scaledown-duration": "5s"},
        {PREFIX + "cpu-requests": '{"web":"1"}', PREFIX + "memory-requests": "x" * 10_000},
    ],
)
def test_a_pod_without_our_keys_is_none_of_ours(others):
    """Neither absence nor similar keys make a pod a wanted one, nor does what the original's manager left behind."""
    assert wishes.read(others, "", "web") is None
    assert wishes.read(others, "gvisor", "web") is None


def test_the_runtime_handler_alone_is_enough():
    """As with the original, the runtime class opts in, with the original's default."""
    wish = read(handler="zeropod")
    assert (wish.policy["scaledown"], wish.reason) == (60.0, "")
    assert wish.policy == DEFAULTS


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_every_example_is_granted(one):
    """And says something about the container: in the policy, or in a note that it changes nothing."""
    if one.silent:
        return
    container = next(iter(one.mentions(one.value(one.example))), "web")
    wish = wishes.read({one.key: one.example}, "", container)
    assert wish.reason == ""
    assert one.name == "container-names" or wish.policy != DEFAULTS


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_written_is_the_default(one, text):
    """As with the original: charts write empty values."""
    assert wishes.read({one.key: text}, "zeropod", "web").policy == DEFAULTS


@pytest.mark.parametrize("one", [one for one in TABLE if one.default], ids=lambda one: one.name)
def test_a_default_that_is_written_is_the_default(one):
    """The text in the reference means what is done without it, and is no wish worth showing."""
    assert wishes.read({one.key: f" {one.default} "}, "", "web").policy == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("scaledown-duration", "1h30m", {"scaledown": 5400.0}),
        ("scaledown-duration", "0", {"scaledown": 0.0}),
        ("pre-dump", "1", {"pre_dump": True}),
        ("disable-checkpointing", "T", {"disable_checkpointing": True}),
        ("disable-probe-detection", "true", {"probe_detection": False}),
        ("dry-run", "true", {"dry_run": True}),
        ("lazy-restore", "false", {"lazy_restore": "false"}),
        ("wake-on-stop", "F", {"wake_on_stop": False}),
        ("connections", "close", {"connections": "close"}),
        ("cpu-threshold", "50m", {"cpu_threshold": 0.05}),
        ("max-request", "90s", {"max_request": 90.0}),
        ("ignore-from", "10.0.0.1", {"ignore_from": ("10.0.0.1/32",)}),
        ("ignore-ports", "9090", {"ignore_ports": (9090,)}),
        ("min-awake", "5m", {"min_awake": 300.0}),
        ("max-image-size", "1Gi", {"max_image_size": 1 << 30}),
        ("on-failure", "freeze", {"on_failure": "freeze"}),
        ("portless-containers", "web,db", {"portless": True, "names": ("db", "web")}),
        ("ports-map", "web=80;db=5432", {"ports": ("tcp/80",), "names": ("db", "web")}),
    ],
)
def test_each_annotation_sets_its_field(name, text, changed):
    """And is shown as it was written; a field that no annotation can set does not exist."""
    found = policy(**{name: text})
    shown = found.pop("wishes", ())
    notes = found.pop("notes", ())
    assert found == changed
    assert shown == (() if notes else (f"{name}={text}",))
    settable = {one.field for one in TABLE} - {""}
    assert settable | {"wishes", "names", "notes"} == set(DEFAULTS)


def test_what_is_said_of_another_container_is_not_this_ones():
    """Ports and permission to sleep without one belong to the container that is named."""
    assert policy(container="db", ports_map="web=80", portless_containers="web") == {
        "names": ("web",)
    }


def test_a_container_that_is_not_named_is_left_alone():
    """With the list that it is not in; the others' names are reported all the same."""
    assert read(container_names="db, web").reason == ""
    wish = read("other", container_names="db,web", scaledown_duration="5s")
    assert wish.reason == "it is not named in zeropod.ctrox.dev/container-names: 'db,web'"
    assert wish.reason.kind == "not-named"
    assert wish.policy["names"] == ("db", "web")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("probe-buffer-size", "2048"),
        ("connect-timeout", "-1s"),
        ("proxy-timeout", "0"),
        ("migrate", "web"),
        ("live-migrate", "web"),
        ("disable-migrate-data", "true"),
    ],
)
def test_what_changes_nothing_is_accepted_and_told(name, value):
    """One sentence that names the key; the container is managed."""
    [note] = policy(**{name: value})["notes"]
    assert note.startswith(f"zeropod.ctrox.dev/{name} changes nothing")


@pytest.mark.parametrize(
    "name", ["probe-buffer-size", "connect-timeout", "proxy-timeout", "disable-migrate-data"]
)
def test_what_changes_nothing_is_checked_all_the_same(name):
    """The original would have refused the pod."""
    assert f"{name}: 'soon'" in read(**{name: "soon"}).reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scaledown-duration", "soon"),
        ("scaledown-duration", "-5s"),
        ("scaledown-duration", "60"),
        ("scale-down-duration", "5s"),
        ("", "x"),
        ("pre-dump", "yes"),
        ("ports-map", "80"),
        ("container-names", ";"),
    ],
)
def test_what_cannot_be_granted_names_key_value_and_remedy(name, value):
    """A mistake is never guessed around: the reason tells its author where it stands."""
    wish = read(**{name: value})
    assert f"annotation {PREFIX}{name}: {value!r}: " in wish.reason
    assert wish.reason.kind == "annotation"
    assert any(word in wish.reason for word in ("write", "remove", "neither"))


def test_a_close_misspelling_is_recognised():
    """Of a key as of a word."""
    assert "did you mean scaledown-duration?" in read(scale_down_duration="5s").reason
    assert "did you mean freeze?" in read(on_failure="freeze-it").reason
    assert "did you mean" not in read(colour="blue").reason


def test_all_mistakes_are_told_at_once():
    """Up to three, so that nobody has to try again for each, and nobody can flood a reason."""
    reason = read(scaledown_duration="soon", pre_dump="yes").reason
    assert "'soon'" in reason
    assert "'yes'" in reason
    many = {f"unknown-{number}": "x" * 200_000 for number in range(50)}
    wish = read(**many)
    assert "and 47 more" in wish.reason
    assert len(wish.reason) < 1000


def test_one_bad_key_spoils_the_good_ones():
    """Half a wish is not granted: the part that failed may be the one that keeps it safe."""
    wish = read(handler="zeropod", scaledown_duration="5s", pre_dump="maybe")
    assert "pre-dump" in wish.reason
    assert wish.policy["scaledown"] == 0


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (("ports-map", "web=80;db=9090"), ("ignore-ports", "9090"), "port 9090"),
        (("ports-map", "web=53/udp"), ("ignore-ports", "53"), "port 53"),
        (("portless-containers", "web,job"), ("container-names", "web"), "job cannot sleep"),
        (("disable-checkpointing", "true"), ("connections", "keep"), "keeps no connection"),
    ],
)
def test_contradicting_keys_are_both_named(first, second, said):
    """Neither is more right than the other."""
    reason = read(**dict([first, second])).reason
    for name, value in (first, second):
        assert f"{PREFIX}{name}: {value!r}" in reason
    assert said in reason


def test_what_is_only_superfluous_is_a_note():
    """The original's pods may say both; there is nothing to be harmed."""
    found = policy(
        disable_checkpointing="true", pre_dump="true", max_image_size="1Gi", connections="wait"
    )
    assert [note.split()[0] for note in found["notes"]] == [
        PREFIX + "max-image-size",
        PREFIX + "pre-dump",
    ]


def test_a_value_that_is_too_long_is_refused():
    """Kubernetes allows 256 KiB; what is reported of one container stays small."""
    assert "longer than 4096" in read(container_names=",".join(["web"] * 2000)).reason
    full = {
        "container-names": ",".join(f"{'x' * 40}-{number}" for number in range(90)) + ",web",
        "ignore-from": ",".join(
            f"fd00:1111:2222:3333:4444:5555:6666:{number:x}" for number in range(32)
        ),
        "ignore-ports": ",".join(str(10_000 + number) for number in range(32)),
        "ports-map": "web=" + ",".join(str(20_000 + number) for number in range(32)),
    }
    assert len(json.dumps(read(**full).policy)) < 10_000


def test_the_table_is_in_order():
    """Names are unique, texts end as sentences do, and the default is what is meant by nothing."""
    assert len(BY_NAME) == len(TABLE)
    for one in TABLE:
        assert one.text.endswith(".")
        assert one.silent or one.value(one.example) != one.value("")
        assert one.origin in {"original", "ours"}
