"""Values of annotations: what is taken, and what is said about the rest."""

import pytest

from nri_plugin import values


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_booleans_are_gos(text):
    """What strconv.ParseBool takes, and nothing that people write elsewhere."""
    assert values.boolean(text) is True
    assert values.negated(text) is False
    for bad in ("yes", "on", "tRUE", "2", ""):
        with pytest.raises(ValueError, match='neither "true" nor "false"'):
            values.boolean(bad)


@pytest.mark.parametrize(("text", "meant"), [("auto", "auto"), ("1", "true"), ("False", "false")])
def test_what_is_automatic_may_be_decided(text, meant):
    """A boolean, or to be chosen by us."""
    assert values.automatic(text) == meant
    with pytest.raises(ValueError, match="auto"):
        values.automatic("maybe")


def test_a_choice_names_its_words_and_the_one_that_was_perhaps_meant():
    """A word that resembles none is not guessed at."""
    parse = values.choice("keep", "wait", "close")
    assert parse("wait") == "wait"
    with pytest.raises(ValueError, match='"keep" or "wait" or "close"; did you mean close'):
        parse("closed")
    with pytest.raises(ValueError, match=r'"close"$'):
        parse("drop")


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0", 0),
        ("50m", 0.05),
        ("0.05", 0.05),
        (".5", 0.5),
        ("2", 2),
        ("1e-2", 0.01),
        ("100u", 1e-4),
    ],
)
def test_cpu_is_a_kubernetes_quantity(text, cores):
    """As in a container's resources."""
    assert values.cores(text) == pytest.approx(cores)


@pytest.mark.parametrize("text", ["5%", "50 m", "-1", "m", "1.2.3", "2k", "1e9", "half", "\u0661"])
def test_what_is_no_cpu_is_refused_with_an_example(text):
    """More than any machine has is a mistake, too."""
    with pytest.raises(ValueError, match="50m"):
        values.cores(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512Mi", 512 << 20),
        ("1.5Gi", 3 << 29),
        ("100M", 10**8),
        ("2e3", 2000),
        ("0.5", 1),
    ],
)
def test_memory_is_a_kubernetes_quantity(text, count):
    """Rounded up to whole bytes, as Kubernetes does."""
    assert values.size(text) == count


@pytest.mark.parametrize("text", ["512m", "512MB", "512mi", "1 Gi", "-1", "10E", "", "much"])
def test_what_is_no_memory_is_refused_with_an_example(text):
    """512m are half a byte, and always a mistake."""
    with pytest.raises(ValueError, match="512Mi"):
        values.size(text)


def test_white_space_and_empty_items_of_a_list_mean_nothing():
    """The original takes them for part of a name, which nobody wants."""
    assert values.names(" web ,\n worker,, ") == ("web", "worker")
    assert values.ports(" 80 , 443 ") == (80, 443)
    ports = {"web": ("tcp/80", "tcp/81"), "dns": ("udp/53", "tcp/53")}
    assert values.ports_by_container(" web = 80 , 81 ; dns=53/UDP, 53 / tcp;") == ports


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (values.names, ",", "names no container"),
        (values.names, "we b", "'we b' is no name"),
        (values.names, "Web", "small letters"),
        (values.names, "a,b,a", "names a twice"),
        (values.name, "x" * 64, "is no name"),
        (values.ports, "80,http", "'http' is no port"),
        (values.ports, "0", "from 1 to 65535"),
        (values.ports, "65536", "from 1 to 65535"),
        (values.ports, "+80", "is no port"),
        (values.ports, "80,80", "names 80 twice"),
        (values.ports, ",".join(map(str, range(1, 40))), "39 items; allowed are 32"),
        (values.ports_by_container, "80", "'80' is not of the form container=ports"),
        (values.ports_by_container, "a=80=81", "container=ports"),
        (values.ports_by_container, "a=", "names no port"),
        (values.ports_by_container, "=80", "is no name"),
        (values.ports_by_container, "a=80;a=81", "names the container a twice"),
        (values.ports_by_container, "a=80,80/tcp", "names tcp/80 twice"),
        (values.ports_by_container, "a=80/sctp", "neither tcp nor udp"),
        (values.ports_by_container, "a=99999/udp", "'99999/udp' is no port"),
        (values.networks, "10.0.0.0/33", "is no address or network"),
        (values.networks, "loadbalancer", "is no address or network"),
        (values.networks, "10.0.0.5/8", "write 10.0.0.0/8 or 10.0.0.5"),
        (values.networks, "0.0.0.0/0", "everybody"),
        (values.networks, "::/0", "everybody"),
        (values.networks, "fe80::1%eth0", "leave out the zone"),
        (values.networks, "10.0.0.1,10.0.0.1/32", "names 10.0.0.1/32 twice"),
        (values.integer, "1k", "no whole number"),
    ],
)
def test_a_mistake_in_a_list_is_named_with_what_is_allowed(parse, text, said):
    """The item that is wrong, not only the list."""
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_networks_are_addresses_or_cidrs():
    """Normalised, so that two spellings of one are one."""
    assert values.networks("10.0.0.5, 10.1.0.0/16,FD00::/8") == (
        "10.0.0.5/32",
        "10.1.0.0/16",
        "fd00::/8",
    )
