"""What each event of the runtime means to us; translates, decides nothing by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from nri_plugin import (
    api,
    breaker,
    containers,
    injection,
    lookup,
    mptcp,
    processes,
    refusals,
    registry,
    seccomp,
    settings,
    stub,
    wishes,
)
from nri_plugin.reasons import NONE, Reason

_log = logging.getLogger(__name__)

VERIFY_TIMEOUT = 10.0
"""Seconds within which a started container has to turn into the supervisor; the runtime reports
the start before the program is executed."""

VERIFY_INTERVAL = 0.002
"""Seconds between two looks, doubled each time up to 0.1."""

EXIT_CODE_TRIES = 40
EXIT_CODE_INTERVAL = 0.05
"""Tries and seconds between them to learn an exit code: the runtime reports an end before it stores
it, and the kubelet restarts a container after a second at the earliest."""

EXPLAINED_AT_ONCE = 2
"""Containers whose records are read to explain them; the rest of containerd's client is for those that
the runtime waits for."""

CREATED_WITHOUT_US = Reason(
    "created-without-plugin",
    "it was created while the plugin was not connected to the runtime; "
    "delete the pod to have its successor managed",
)
TOO_SLOW = Reason(
    "too-slow", "the plugin could not change its spec in time; restart the container"
)
NO_IO_URING = (
    "Under the supervisor it had no io_uring (ENOSYS); if it cannot do without, set"
    " zeropod.ctrox.dev/allow-io-uring"
)
RUNS_PLAIN = Reason(
    "runs-plain",
    "it runs without the supervisor although its spec names it: the plugin answered too late; "
    "restart the container",
)


class Plugin:
    """The handlers; see `stub.Plugin`."""

    def __init__(
        self,
        config: settings.Settings,
        known: registry.Registry,
        records: containers.Containers,
        fuse: breaker.Breaker,
        *,
        verify_timeout: float = VERIFY_TIMEOUT,
    ) -> None:
        self._config = config
        self._known = known
        self._records = records
        self._breaker = fuse
        self._verify_timeout = verify_timeout
        self._lookup = lookup.Lookup()
        self._explaining = asyncio.Semaphore(EXPLAINED_AT_ONCE)
        self._runtime = ""
        self._multipath = mptcp.Pods(config.state_dir / "mptcp-off", mptcp.switch)
        self._tasks: set[asyncio.Task[None]] = set()
        self.synchronized_once = asyncio.Event()

    @property
    def handlers(self) -> Mapping[api.Event, stub.EventHandler]:
        """See `stub.Plugin`; few, because the runtime stops for each."""
        return {
            api.Event.POST_CREATE_CONTAINER: self._created,
            api.Event.START_CONTAINER: self._starting,
            api.Event.POST_START_CONTAINER: self._started,
            api.Event.STOP_CONTAINER: self._stopped,
            api.Event.REMOVE_CONTAINER: self._removed,
            api.Event.REMOVE_POD_SANDBOX: self._pod_removed,
        }

    def configured(self, runtime: stub.Runtime) -> None:
        """See `stub.Plugin`."""
        fields = {"runtime": runtime.name, "version": runtime.version, "nri": runtime.nri}
        _log.info("nri.configured", extra=fields)
        self._runtime = runtime.name
        # Now, in a thread, so that no handler pays for loading grpc.
        self._spawn(self._connect(), "connect")

    def synchronized(self, pods: Sequence[Any], listed: Sequence[Any]) -> None:
        """See `stub.Plugin`."""
        by_id = {pod.id: pod for pod in pods}
        ids = {container.id for container in listed}
        for gone in [container.id for container in self._known if container.id not in ids]:
            self._known.remove(gone)
        for container in listed:
            found = self._look(by_id.get(container.pod_sandbox_id), container)
            if found is not None:
                self._adopt(found)
        for sandbox_id in self._multipath.known():
            if sandbox_id not in by_id:
                self._multipath.forget(sandbox_id)
            else:
                # The last managed container may have stopped while nobody was told.
                work = self._restore_multipath(sandbox_id, by_id[sandbox_id].pid)
                self._spawn(work, f"mptcp-{sandbox_id[:12]}")
        fields = {"pods": len(pods), "containers": len(listed), "wanted": len(list(self._known))}
        _log.info("nri.synchronized", extra=fields)
        self.synchronized_once.set()

    async def close(self) -> None:
        """End the work in the background."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._records.close()

    async def _created(self, pod: Any, container: Any) -> None:
        """PostCreateContainer: the record is stored, and nobody can have started it yet."""
        started = time.perf_counter()
        found = self._look(pod, container)
        if found is None or found.injected:
            return
        reason = TOO_SLOW  # unless the work below comes to its end
        try:
            lacks = NO_IO_URING if seccomp.IO_URING in self._denied(found.id) else ""
            known = found.reason or self._breaker.reason(found.uid, found.name, lacks=lacks)
            reason = known or await self._inject(found.id)
        except Exception as error:  # the stub logs it; the container's owner hears of it too
            text = f"the plugin failed: {type(error).__name__}: {error}; see its log"
            reason = Reason("internal", text)
            raise
        finally:
            self._known.change(found.id, injected=not reason, reason=reason)
        fields: dict[str, object] = {"container": found.title, "id": found.id}
        fields["ms"] = (time.perf_counter() - started) * 1e3
        if reason:
            _log.warning("container.unmanaged", extra=fields | {"reason": reason})
        else:
            _log.info("container.injected", extra=fields)

    async def _starting(self, pod: Any, container: Any) -> None:
        """StartContainer: namespaces and root are there, the program is not executed yet."""
        found = self._look(pod, container)
        if found is None:
            return
        # From here on, in case it ends before PostStartContainer comes.
        self._known.change(found.id, started=time.monotonic())
        original = self._original(container)
        if original is None:
            return
        problem = await self._lookup.problem(container.pid, original, container.env)
        if problem:
            _log.info("container.rejected", extra={"container": found.title, "reason": problem})
            message = f"unable to start container process: {problem}"
            raise stub.RejectedError(message)
        await self._quiet_multipath(found, container.pid)

    async def _started(self, pod: Any, container: Any) -> None:
        """PostStartContainer: the program is executed now or in a moment."""
        found = self._look(pod, container)
        if found is None:
            return
        self._known.change(found.id, started=time.monotonic(), state=api.State.RUNNING)
        if found.injected:
            self._spawn(self._verify(found.id, found.pid), f"verify-{found.id[:12]}")
        elif not found.reason:
            # Created in the moment in which we connected, so that nobody told us.
            self._spawn(self._explain(found.id), f"explain-{found.id[:12]}")

    async def _stopped(self, pod: Any, container: Any) -> None:
        """StopContainer: the process is dead, whatever the event says."""
        found = self._known.get(container.id)
        if found is None:
            return
        if found.started is not None:
            lived = time.monotonic() - found.started
            self._breaker.life_ended(
                found.uid, found.name, seconds=lived, supervised=found.injected
            )
            if self._breaker.reason(found.uid, found.name):
                self._spawn(self._forgive(found, lived), f"exit-{found.id[:12]}")
            _log.info("container.stopped", extra={"container": found.title, "seconds": lived})
        self._known.change(found.id, state=api.State.STOPPED, pid=0, started=None)
        await self._restore_multipath(found.sandbox_id, pod.pid if pod is not None else 0)

    async def _removed(self, _: Any, container: Any) -> None:
        """RemoveContainer: its record is about to go."""
        self._known.remove(container.id)

    async def _pod_removed(self, pod: Any, _: Any) -> None:
        """RemovePodSandbox; never comes for pods that are older than the runtime's process."""
        self._breaker.forget(pod.uid)
        self._multipath.forget(pod.id)

    async def _quiet_multipath(self, found: registry.Container, pid: int) -> None:
        """Keep a program that is about to start from opening sockets that cannot be checkpointed."""
        if found.policy["disable_checkpointing"]:
            return
        try:
            await self._multipath.off(found.sandbox_id, pid)
        except OSError as error:
            # It runs all the same. If it uses MPTCP, the daemon says so when it should sleep.
            fields = {"container": found.title, "reason": str(error)}
            _log.warning("mptcp.left_on", extra=fields)

    async def _restore_multipath(self, sandbox_id: str, pid: int) -> None:
        """Give it back to a pod in which nothing of ours runs any more."""
        if not any(
            other.injected and other.state != api.State.STOPPED
            for other in self._known
            if other.sandbox_id == sandbox_id
        ):
            await self._multipath.on(sandbox_id, pid)

    async def _connect(self) -> None:
        try:
            await self._records.connect()
        except containers.ContainersError as error:
            _log.error("containerd.unavailable", extra={"reason": str(error)})

    def _look(self, pod: Any, container: Any) -> registry.Container | None:
        """Bring the registry up to date with an event and return the entry.

        None: the pod wants nothing of us. Events come for containers never heard of before, and
        without their pod when the runtime has forgotten it.
        """
        known = self._known.get(container.id)
        pid, state = container.pid, api.State(container.state)
        if known is not None:
            # The event shows the spec as it is stored by now, whatever became of our writing it.
            injected = self._original(container) is not None if container.args else known.injected
            pid = pid or known.pid
            return self._known.change(known.id, pid=pid, state=state, injected=injected)
        if pod is None or not pod.id:
            return None
        wish = wishes.read(pod.annotations, pod.runtime_handler, container.name)
        if wish is None:
            return None
        return self._known.put(
            registry.Container(
                id=container.id,
                sandbox_id=pod.id,
                name=container.name,
                pod=pod.name,
                namespace=pod.namespace,
                uid=pod.uid,
                runtime_handler=pod.runtime_handler,
                policy=wish.policy,
                pid=pid,
                state=state,
                injected=self._original(container) is not None,
                reason=wish.reason,
            )
        )

    def _original(self, container: Any) -> list[str] | None:
        mounts = ((mount.destination, mount.source) for mount in container.mounts)
        return injection.original(
            container.args, container.annotations, mounts, self._config.container_dir
        )

    def _adopt(self, found: registry.Container) -> None:
        """Judge a container that was there before this connection."""
        if found.pid and found.started is None:
            age = processes.age(found.pid)
            if age is not None:
                self._known.change(found.id, started=time.monotonic() - age)
        if found.injected and found.state == api.State.RUNNING:
            # At once if possible: the daemon should not hear of doubts about one that sleeps.
            if not self._claim(found.id, found.pid):
                self._spawn(self._verify(found.id, found.pid), f"verify-{found.id[:12]}")
        elif not found.injected and not found.reason:
            self._spawn(self._explain(found.id), f"explain-{found.id[:12]}")

    async def _inject(self, container_id: str) -> Reason:
        """Put the supervisor into the stored spec; return why not, an empty reason when done."""
        if self._runtime != "containerd":
            text = f"the container runtime is {self._runtime}; only containerd is supported"
            return Reason("runtime", text)
        if missing := processes.missing_supervisor(self._config.container_dir):
            return Reason("not-installed", missing)
        try:
            record = await self._records.get(container_id)
            if injection.present(record.spec, self._config.container_dir):
                return NONE  # by another instance of ours, in a rolling update
            reason = self._refusal(record)
            if not reason:
                changed = injection.rewrite(
                    record.spec,
                    self._config.container_dir,
                    denied=self._denied(container_id),
                )
                await self._records.put_spec(record, changed)
        except containers.ContainersError as error:
            return Reason("containerd", f"its spec could not be changed: {error}")
        return reason

    def _denied(self, container_id: str) -> list[str]:
        """Return the system calls that a container has to do without, since criu cannot bring back what they make."""
        found = self._known.get(container_id)
        policy = found.policy if found is not None else {}
        if policy.get("disable_checkpointing"):
            return []
        return (
            [seccomp.LANDLOCK] if policy.get("io_uring") else [seccomp.IO_URING, seccomp.LANDLOCK]
        )

    async def _forgive(self, found: registry.Container, lived: float) -> None:
        """Take back that a short life counts, if it ended with 0."""
        for _ in range(EXIT_CODE_TRIES):
            try:
                code = await self._records.exit_code(found.id)
            except containers.ContainersError as error:
                _log.debug("container.unreadable", extra={"id": found.id, "reason": str(error)})
                return
            if code is not None:
                if code == 0:
                    self._breaker.forgive(found.uid, found.name, seconds=lived)
                return
            await asyncio.sleep(EXIT_CODE_INTERVAL)

    async def _explain(self, container_id: str) -> None:
        """Find out why a container is plain that was created without us."""
        try:
            async with self._explaining:
                reason = self._refusal(await self._records.get(container_id))
        except containers.ContainersError as error:
            _log.debug("container.unreadable", extra={"id": container_id, "reason": str(error)})
            reason = NONE
        reason = reason or CREATED_WITHOUT_US
        found = self._known.change(container_id, reason=reason)
        if found is not None:
            fields = {"container": found.title, "id": found.id, "reason": reason}
            _log.warning("container.unmanaged", extra=fields)

    def _refusal(self, record: containers.Record) -> Reason:
        network = processes.shares_host_network(record.spec)
        return refusals.find(record.spec, refusals.Host(record.runtime, network))

    async def _verify(self, container_id: str, pid: int) -> None:
        """Wait until the process is the supervisor: only then is the container managed."""
        deadline = time.monotonic() + self._verify_timeout
        interval = VERIFY_INTERVAL
        while not self._claim(container_id, pid):
            if not processes.exists(pid):
                return  # ended; the event is on its way
            if time.monotonic() > deadline:
                found = self._known.change(container_id, managed=False, reason=RUNS_PLAIN)
                if found is not None:
                    _log.warning("container.plain", extra={"container": found.title})
                return
            await asyncio.sleep(interval)
            interval = min(interval * 2, 0.1)

    def _claim(self, container_id: str, pid: int) -> bool:
        """Note that a container is managed if its process is the supervisor; tell whether so."""
        if not processes.is_supervisor(pid):
            return False
        found = self._known.get(container_id)
        if found is None or found.pid != pid or found.state == api.State.STOPPED:
            return True  # nothing to claim any more
        if not found.managed:
            _log.info("container.managed", extra={"container": found.title, "pid": pid})
        self._known.change(container_id, managed=True, reason=NONE)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            fields = {"task": task.get_name()}
            _log.error("plugin.task_failed", exc_info=task.exception(), extra=fields)
