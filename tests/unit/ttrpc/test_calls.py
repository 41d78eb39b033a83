"""Client and server over real sockets."""

import asyncio
import logging
import random
import socket
import stat
import threading

import pytest

from ttrpc import blocking, client, envelope, errors, frames, messages, server, streams

api = messages.schema("test", {"Text": [(1, "text", "string")]})
SERVICE = "test.Echo"
Text = api.Text


class Echo:
    """A service with one method of each temper."""

    def __init__(self):
        self.contexts = []
        self.running = 0
        self.peak = 0
        self.hanging, self.cancelled = asyncio.Event(), asyncio.Event()
        self.services = server.Services()
        for method in ("Echo", "Slow", "Hang", "Refuse", "Crash", "Huge"):
            self.services.add(SERVICE, method, Text, getattr(self, method.lower()))

    async def echo(self, request, context):
        self.contexts.append(context)
        return request

    async def slow(self, request, context):
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0.05)
        self.running -= 1
        return request

    async def hang(self, request, context):
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def refuse(self, request, context):
        raise errors.TtrpcError(errors.Code.FAILED_PRECONDITION, "not today")

    async def crash(self, request, context):
        raise KeyError(request.text)

    async def huge(self, request, context):
        return Text(text="x" * (frames.SEND_LIMIT + 1))


@pytest.fixture
async def echo():
    return Echo()


@pytest.fixture
async def path(echo, tmp_path):
    running = server.Server(echo.services)
    await running.serve_unix(tmp_path / "s")
    yield tmp_path / "s"
    await running.close(grace=0)


@pytest.fixture
async def caller(path):
    connected = await client.connect_unix(path)
    yield connected
    await connected.close()


async def raw(services):
    """Return the serving task and a plain socket to it."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    connection = server.Connection(streams.SocketStream(reader, writer), services)
    return asyncio.create_task(connection.serve()), await asyncio.open_connection(sock=ours)


async def read_frame(reader):
    length, stream, kind, _ = frames.HEADER.unpack(await reader.readexactly(10))
    return stream, kind, await reader.readexactly(length)


def request(stream, method="Echo", text="hello", **changes):
    call = envelope.Request(SERVICE, method, messages.encode(Text(text=text)), None, {})
    return frames.encode(stream, frames.Kind.REQUEST, envelope.pack_request(call), **changes)


def code_of(body):
    with pytest.raises(errors.TtrpcError) as caught:
        envelope.unpack_response(body)
    return caught.value.code


async def test_a_call_returns_its_reply(caller, echo):
    """The reply is the handler's; time-out and metadata reach it."""
    reply = await caller.call(
        SERVICE, "Echo", Text(text="hi"), Text, timeout=60, metadata={"k": ["v", "w"]}
    )
    assert reply == Text(text="hi")
    assert echo.contexts[0].metadata == {"k": ["v", "w"]}
    assert echo.contexts[0].timeout == 60
    assert 0 < echo.contexts[0].remaining() <= 60


async def test_a_hundred_calls_run_at_once(caller, echo):
    """Calls on one connection do not wait for each other, and answers find their calls."""
    calls = [caller.call(SERVICE, "Slow", Text(text=str(n)), Text) for n in range(100)]
    replies = await asyncio.gather(*calls)
    assert [reply.text for reply in replies] == [str(n) for n in range(100)]
    assert echo.peak == 100


async def test_more_calls_than_slots_are_served_in_turn(caller, echo):
    """Past the bound calls wait in the socket: none fails, none is served beyond the bound."""
    count = server.CONCURRENCY * 2
    await asyncio.gather(
        *(caller.call(SERVICE, "Slow", Text(text="x"), Text) for _ in range(count))
    )
    assert echo.peak == server.CONCURRENCY


@pytest.mark.parametrize(
    ("service", "method", "code"),
    [
        (SERVICE, "Missing", errors.Code.UNIMPLEMENTED),
        ("test.Nobody", "Echo", errors.Code.UNIMPLEMENTED),
        (SERVICE, "Refuse", errors.Code.FAILED_PRECONDITION),
        (SERVICE, "Crash", errors.Code.UNKNOWN),
        (SERVICE, "Huge", errors.Code.RESOURCE_EXHAUSTED),
    ],
)
async def test_failures_arrive_as_statuses(caller, service, method, code, caplog):
    """Each way to fail has its code, and the connection goes on."""
    with pytest.raises(errors.TtrpcError) as caught:
        await caller.call(service, method, Text(text="t"), Text)
    assert caught.value.code is code
    assert (await caller.call(SERVICE, "Echo", Text(text="on"), Text)).text == "on"


async def test_a_crash_is_logged_with_its_traceback(caller, caplog):
    """A handler's bug is seen on the server; the caller gets its name."""
    with pytest.raises(errors.TtrpcError, match="KeyError: 'boom'"):
        await caller.call(SERVICE, "Crash", Text(text="boom"), Text)
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


async def test_a_message_over_the_limit_is_not_sent(caller):
    """The caller hears it at once and the connection is not harmed."""
    with pytest.raises(errors.TtrpcError) as caught:
        await caller.call(SERVICE, "Echo", Text(text="x" * frames.SEND_LIMIT), Text)
    assert caught.value.code is errors.Code.RESOURCE_EXHAUSTED
    assert (await caller.call(SERVICE, "Echo", Text(text="on"), Text)).text == "on"


async def test_a_timeout_ends_both_sides(caller, echo):
    """The caller gets DEADLINE_EXCEEDED, the handler is cancelled, other calls go on."""
    with pytest.raises(errors.TtrpcError) as caught:
        await caller.call(SERVICE, "Hang", Text(), Text, timeout=0.05)
    assert caught.value.code is errors.Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(echo.cancelled.wait(), 30)
    assert (await caller.call(SERVICE, "Echo", Text(text="on"), Text)).text == "on"


async def test_the_server_keeps_the_callers_timeout(echo):
    """A caller that only tells its time-out and waits on is answered with status 4."""
    task, (reader, writer) = await raw(echo.services)
    call = envelope.Request(SERVICE, "Hang", b"", 0.05, {})
    writer.write(frames.encode(1, frames.Kind.REQUEST, envelope.pack_request(call)))
    _, _, body = await read_frame(reader)
    assert code_of(body) is errors.Code.DEADLINE_EXCEEDED
    writer.close()
    await task


async def test_a_cancelled_call_leaves_no_trace(caller):
    """The late answer to a cancelled call is dropped; the next call gets its own."""
    call = asyncio.create_task(caller.call(SERVICE, "Slow", Text(text="old"), Text))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await caller.call(SERVICE, "Slow", Text(text="new"), Text)).text == "new"


async def test_handlers_end_with_their_connection(echo):
    """A client that goes away does not leave its handlers running."""
    task, (_, writer) = await raw(echo.services)
    writer.write(request(1, "Hang"))
    await echo.hanging.wait()
    writer.close()
    await asyncio.wait_for(task, 30)
    assert echo.cancelled.is_set()


async def test_pending_calls_fail_when_the_server_dies():
    """UNAVAILABLE at once, for the call under way and for every later one."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    connected = client.Client(streams.SocketStream(reader, writer))
    call = asyncio.create_task(connected.call(SERVICE, "Echo", Text(), Text))
    await asyncio.sleep(0.01)
    theirs.close()
    for attempt in (call, connected.call(SERVICE, "Echo", Text(), Text)):
        with pytest.raises(errors.TtrpcError) as caught:
            await asyncio.wait_for(attempt, 30)
        assert caught.value.code is errors.Code.UNAVAILABLE
    await asyncio.wait_for(connected.wait_closed(), 30)
    await connected.close()


@pytest.mark.parametrize("frame_kind", [frames.Kind.DATA, frames.Kind.REQUEST])
async def test_wrong_stream_ids_and_streaming_are_invalid(echo, frame_kind):
    """Go's rules: even ids, ids that do not rise and stream data are answered with status 3."""
    task, (reader, writer) = await raw(echo.services)
    writer.write(request(5))
    assert (await read_frame(reader))[0] == 5
    for stream in (6, 5, 3):
        body = request(stream)[10:]
        writer.write(frames.encode(stream, frame_kind, body))
        answered, kind, body = await read_frame(reader)
        assert (answered, kind) == (stream, frames.Kind.RESPONSE)
        assert code_of(body) is errors.Code.INVALID_ARGUMENT
    writer.close()
    await task


async def test_frames_of_unknown_type_are_ignored(echo):
    """A newer peer's frame does not disturb the calls around it."""
    task, (reader, writer) = await raw(echo.services)
    writer.write(frames.HEADER.pack(3, 1, 9, 0) + b"new" + request(3))
    assert (await read_frame(reader))[0] == 3
    writer.close()
    await task


async def test_requests_cut_anywhere_are_served(echo):
    """A request that arrives byte by byte is answered like any other."""
    task, (reader, writer) = await raw(echo.services)
    for byte in request(1):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    _, _, body = await read_frame(reader)
    assert Text.FromString(envelope.unpack_response(body)).text == "hello"
    writer.close()
    await task


@pytest.mark.parametrize("seed", range(30))
async def test_garbage_ends_a_connection_and_nothing_else(path, seed):
    """Random bytes may close their own connection; the server goes on for others."""
    source = random.Random(seed)
    reader, writer = await asyncio.open_unix_connection(path)
    junk = source.randbytes(source.randrange(1, 20_000))
    if seed % 3 == 0:  # well-formed frames around broken bodies
        junk = b"".join(
            frames.encode(2 * n + 1, frames.Kind.REQUEST, source.randbytes(50)) for n in range(50)
        )
    writer.write(junk)
    writer.write_eof()
    while await asyncio.wait_for(reader.read(65536), 30):
        pass
    writer.close()
    good = await client.connect_unix(path)
    assert (await good.call(SERVICE, "Echo", Text(text="on"), Text)).text == "on"
    await good.close()


async def test_garbage_from_a_server_fails_the_call():
    """A client that reads nonsense gives up on the connection with an error of ours."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    connected = client.Client(streams.SocketStream(reader, writer))
    call = asyncio.create_task(connected.call(SERVICE, "Echo", Text(), Text))
    await asyncio.sleep(0.01)
    theirs.sendall(b"\xff" * 64)
    with pytest.raises(errors.TtrpcError):
        await asyncio.wait_for(call, 30)
    theirs.close()
    await connected.close()


async def test_the_socket_is_private_and_replaces_a_stale_one(echo, tmp_path):
    """Mode 0600 from the first moment; what a dead server left is no obstacle."""
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    running = server.Server(echo.services)
    await running.serve_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connected = await client.connect_unix(path)
    assert (await connected.call(SERVICE, "Echo", Text(text="x"), Text)).text == "x"
    await connected.close()
    await running.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_predecessor_does_not_remove_its_successors_socket(echo, tmp_path):
    """In an upgrade two servers overlap; the old one's end must not unname the new one."""
    old, new = server.Server(echo.services), server.Server(echo.services)
    await old.serve_unix(tmp_path / "s")
    await new.serve_unix(tmp_path / "s")
    await old.close()
    connected = await client.connect_unix(tmp_path / "s")
    assert (await connected.call(SERVICE, "Echo", Text(text="new"), Text)).text == "new"
    await connected.close()
    await new.close()


async def test_closing_lets_calls_finish(echo, tmp_path):
    """A call under way is answered before the server goes; one that hangs is cut off."""
    running = server.Server(echo.services)
    await running.serve_unix(tmp_path / "s")
    connected = await client.connect_unix(tmp_path / "s")
    slow = asyncio.create_task(connected.call(SERVICE, "Slow", Text(text="s"), Text))
    hang = asyncio.create_task(connected.call(SERVICE, "Hang", Text(), Text))
    await echo.hanging.wait()
    await running.close(grace=1)
    assert (await slow).text == "s"
    with pytest.raises(errors.TtrpcError) as caught:
        await hang
    assert caught.value.code is errors.Code.UNAVAILABLE
    await connected.close()


async def test_nobody_there_is_unavailable(tmp_path):
    """A missing socket and one without a listener are errors of ours that name the path."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    for name in ("dead", "missing"):
        with pytest.raises(errors.TtrpcError, match=name) as caught:
            await client.connect_unix(tmp_path / name)
        assert caught.value.code is errors.Code.UNAVAILABLE
        with pytest.raises(errors.TtrpcError, match=name):
            blocking.Client(tmp_path / name)
    dead.close()


async def test_the_blocking_client_speaks_the_same_protocol(path):
    """Replies, errors and time-outs are those of the asyncio client."""

    def use():
        with blocking.Client(path, timeout=2) as connected:
            for n in range(3):
                assert connected.call(SERVICE, "Echo", Text(text=str(n)), Text).text == str(n)
            large = "x" * 1_000_000
            assert connected.call(SERVICE, "Echo", Text(text=large), Text).text == large
            with pytest.raises(errors.TtrpcError) as refused:
                connected.call(SERVICE, "Refuse", Text(), Text)
            with pytest.raises(errors.TtrpcError) as late:
                connected.call(SERVICE, "Hang", Text(), Text, timeout=0.05)
        return refused.value.code, late.value.code

    codes = await asyncio.to_thread(use)
    assert codes == (errors.Code.FAILED_PRECONDITION, errors.Code.DEADLINE_EXCEEDED)


def test_the_blocking_client_notices_a_server_that_hangs_up(tmp_path):
    """A connection that ends in mid-call is UNAVAILABLE, not a hang."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def hang_up():
        accepted, _ = listener.accept()
        accepted.recv(1000)
        accepted.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with (
        blocking.Client(tmp_path / "s") as connected,
        pytest.raises(errors.TtrpcError) as caught,
    ):
        connected.call(SERVICE, "Echo", Text(), Text)
    thread.join()
    listener.close()
    assert caught.value.code is errors.Code.UNAVAILABLE
