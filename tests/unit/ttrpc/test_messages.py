"""Message classes from a table."""

import pytest

from ttrpc import messages

api = messages.schema(
    "test.messages",
    {
        "Leaf": [(1, "name", "string"), (2, "numbers", "repeated int64")],
        "Tree": [
            (1, "leaf", "Leaf"),
            (2, "leaves", "repeated Leaf"),
            (3, "labels", "map<string,string>"),
            (4, "by_number", "map<int32, Leaf>"),
            (5, "parent", "Tree"),
            (16, "blob", "bytes"),
            (17, "flag", "bool"),
        ],
        "Short": [(1, "leaf", "Leaf")],
    },
)


def test_every_kind_of_field_survives_a_round_trip():
    """Scalars, messages, lists and maps, nested in each other, come back as they went."""
    tree = api.Tree(
        leaf=api.Leaf(name="a", numbers=[1, -2]),
        leaves=[api.Leaf(), api.Leaf(name="b")],
        labels={"k": "v", "": "empty key"},
        parent=api.Tree(flag=True),
        blob=b"\0\xff",
    )
    tree.by_number[-7].name = "c"
    assert api.Tree.FromString(messages.encode(tree)) == tree


def test_bytes_are_protobufs():
    """Field 1, a string, and a packed list: the encoding of the protobuf documentation."""
    leaf = api.Leaf(name="testing", numbers=[3, 270])
    assert messages.encode(leaf) == b"\x0a\x07testing" + b"\x12\x03\x03\x8e\x02"


def test_fields_that_the_table_lacks_are_kept():
    """What a newer sender adds is not lost when the message is sent on."""
    whole = messages.encode(api.Tree(leaf=api.Leaf(name="x"), blob=b"new"))
    short = api.Short.FromString(whole)
    assert short.leaf.name == "x"
    assert messages.encode(short) == whole


def test_an_optional_field_tells_whether_it_was_sent():
    """Zero and empty, when sent, are not the same as nothing."""
    table = {"M": [(1, "a", "optional bool"), (2, "b", "optional string"), (3, "c", "bool")]}
    optional = messages.schema("test.optional", table).M
    said = optional.FromString(messages.encode(optional(a=False, c=False)))
    assert said.HasField("a")
    assert not said.HasField("b")
    assert (said.a, said.b) == (False, "")
    assert messages.encode(said) == b"\x08\0"


def test_two_schemas_of_one_package_do_not_clash():
    """Client and server in one process may declare the same messages, even differently."""
    other = messages.schema("test.messages", {"Leaf": [(1, "id", "int32")]})
    assert other.Leaf(id=3).id == 3
    assert api.Leaf(name="n").name == "n"


@pytest.mark.parametrize(
    "table",
    [
        {"A": [(1, "x", "strong")]},
        {"A": [(1, "x", "repeated Missing")]},
        {"A": [(1, "x", "string"), (1, "y", "string")]},
        {"A": [(0, "x", "string")]},
        {"A": [(1, "x", "map<Missing,string>")]},
    ],
)
def test_a_wrong_table_is_refused(table):
    """An unknown type, a number used twice and number 0 fail at once, not at the first message."""
    with pytest.raises(messages.SchemaError, match=r"test\.wrong"):
        messages.schema("test.wrong", table)
