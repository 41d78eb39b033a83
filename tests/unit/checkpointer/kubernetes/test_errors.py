"""From an answer to what is to be done about it."""

import pytest

from checkpointer.kubernetes import errors

RIGHTS = (
    'pods "web" is forbidden: User "system:serviceaccount:zeropod-system:zeropod-node" cannot patch resource '
    '"pods/resize" in API group "" in the namespace "default"'
)
OTHERS = (
    'horizontalpodautoscalers.autoscaling is forbidden: User "u" cannot list resource "horizontalpodautoscalers" in '
    'API group "autoscaling" in the namespace "default"'
)


def test_a_missing_right_is_named():
    """Verb and resource, with the group where there is one."""
    denied = errors.of(403, RIGHTS)
    assert (denied.verb, denied.resource) == ("patch", "pods/resize")
    denied = errors.of(403, OTHERS)
    assert (denied.verb, denied.resource) == ("list", "horizontalpodautoscalers.autoscaling")


@pytest.mark.parametrize(
    "why",
    [
        "exceeded quota: small, requested: cpu=100m",
        "ValidatingAdmissionPolicy 'zeropod-own-pods' with binding 'zeropod-own-pods' denied request: zeropod on node a "
        "may change no pod of another node: b",
    ],
)
def test_a_quota_or_policy_is_no_missing_right(why):
    """Nothing is turned off for it."""
    error = errors.of(403, f'pods "web" is forbidden: {why}')
    assert isinstance(error, errors.Rejected)
    assert not isinstance(error, errors.Denied)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.Unreachable),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Gone),
        (422, errors.Rejected),
        (429, errors.Unreachable),
        (500, errors.Unreachable),
        (504, errors.Unreachable),
    ],
)
def test_each_status_has_its_error(status, kind):
    """By what is to be done."""
    assert type(errors.of(status, "x")) is kind or isinstance(errors.of(status, "x"), kind)


def test_the_server_says_when_to_come_again():
    """In seconds, and not for ever."""
    assert errors.of(429, "x", "7").after == 7
    assert errors.of(503, "x", "100000").after == 300
    assert errors.of(429, "x", "Wed, 21 Oct 2026 07:28:00 GMT").after == 0
