"""The two halves of Report."""

import dataclasses

from checkpointer import api
from checkpointer.policy import Policy
from nri_plugin import annotations, report


def test_the_plugins_report_is_the_one_the_daemon_reads():
    """Neither package imports the other, so the tables are compared here."""
    for name, fields in report.TABLE.items():
        assert [(f.number, f.name) for f in getattr(api.m, name).DESCRIPTOR.fields] == [
            (number, field) for number, field, _ in fields
        ]


def test_a_pod_that_says_nothing_gets_the_daemons_defaults():
    """The plugin's defaults arrive as the policy that the daemon assumes where it was told none."""
    sent = api.m.Policy(**annotations.DEFAULTS)

    assert Policy.of(sent) == Policy()
    assert set(annotations.DEFAULTS) == {field.name for field in dataclasses.fields(Policy)}
