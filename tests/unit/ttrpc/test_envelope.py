"""The request and response messages around every call."""

import pytest

from ttrpc import envelope, errors


def test_a_request_survives_a_round_trip():
    """Service, method, payload, time-out and repeated metadata keys arrive as sent."""
    call = envelope.Request("a.b.C", "Do", b"\0p", 2.5, {"k": ["1", "2"], "l": ["3"]})
    assert envelope.unpack_request(envelope.pack_request(call)) == call


def test_no_timeout_is_zero_on_the_wire_and_a_spent_one_is_not():
    """timeout_nano 0 means for ever, so a time-out of 0 s must not become it."""
    endless = envelope.pack_request(envelope.Request("s", "m", b"", None, {}))
    assert envelope.unpack_request(endless).timeout is None
    spent = envelope.pack_request(envelope.Request("s", "m", b"", 0.0, {}))
    assert envelope.unpack_request(spent).timeout == pytest.approx(1e-9)


def test_an_error_response_raises_its_status():
    """Code and message of the other side are the exception's."""
    with pytest.raises(errors.TtrpcError) as caught:
        envelope.unpack_response(envelope.pack_error(errors.Code.NOT_FOUND, "no such thing"))
    assert caught.value.code is errors.Code.NOT_FOUND
    assert str(caught.value) == "not_found: no such thing"


def test_an_unknown_code_is_unknown():
    """A number from the future is an error, never success."""
    assert errors.TtrpcError(99, "x").code is errors.Code.UNKNOWN
    assert errors.TtrpcError(-1, "x").code is errors.Code.UNKNOWN


def test_an_empty_response_is_success():
    """Go omits status and an empty payload: zero bytes are a reply."""
    assert envelope.unpack_response(b"") == b""


def test_broken_bytes_are_named_by_side():
    """A broken request is the caller's fault, a broken response the server's."""
    with pytest.raises(errors.TtrpcError) as request:
        envelope.unpack_request(b"\xff\xff")
    with pytest.raises(errors.TtrpcError) as response:
        envelope.unpack_response(b"\xff\xff")
    assert request.value.code is errors.Code.INVALID_ARGUMENT
    assert response.value.code is errors.Code.INTERNAL
