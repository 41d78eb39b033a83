"""ttRPC: containerd's small RPC protocol over a stream, client and server.

The package knows frames, calls and statuses; it knows nothing of NRI, containers or pods, and imports nothing of this
project, so it can be used on its own:

- `messages`: protobuf message classes from a table, without generated code;
- `frames`: bytes to frames and back, without any input or output;
- `envelope`: the request and response that every call is wrapped in;
- `errors`: the protocol's statuses;
- `client`, `server`: asyncio; `blocking`: one call at a time for command line programs.
"""
