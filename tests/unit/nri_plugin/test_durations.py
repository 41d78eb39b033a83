"""Go's durations, as time.ParseDuration takes them."""

import pytest

from nri_plugin import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("0s", 0),
        ("1m", 60),
        ("1h2m3.5s", 3723.5),
        ("90m", 5400),
        ("300ms", 0.3),
        ("1.5h", 5400),
        ("+5s", 5),
        (".5s", 0.5),
        ("5.s", 5),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("7ns", 7e-9),
        ("1s1s", 2),
        ("2540400h10m10s", 9145440610),
        ("0.100000000000000000000h", 360),
    ],
)
def test_what_go_takes_is_taken(text, seconds):
    """The examples of Go's own test suite and those of the original's documentation."""
    assert durations.parse(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "-1s", "s", ".", ".s", "1", "1.5", "1 m", "1d", "1M", "5S", "+", "++1s"),
        *("1s ", "1m-5s", "1_0s", "\u0661s", "9223372036854775808ns", "3000000h"),
        "9" * 5000 + "s",
    ],
)
def test_what_go_refuses_is_refused(text):
    """A bare number, an unknown unit, a negative or overflowing duration are errors."""
    with pytest.raises(ValueError, match="write for example"):
        durations.parse(text)
