"""The two halves of Report."""

from checkpointer import api
from nri_plugin import report


def test_the_plugins_report_is_the_one_the_daemon_reads():
    """Neither package imports the other, so the tables are compared here."""
    for name, fields in report.TABLE.items():
        assert [(f.number, f.name) for f in getattr(api.m, name).DESCRIPTOR.fields] == [
            (number, field) for number, field, _ in fields
        ]
