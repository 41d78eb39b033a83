"""Programs that do not run as root: PostgreSQL with a pool in front of it, nginx with workers of another user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from node import workloads
from node.clients import ENOUGH, Sleeper, until
from node.postgres import Session
from node.sleepers import SCALEDOWN
from node.workloads import get

from dev import cri

Pods = Callable[..., cri.Pod]

#: criu reads the limits of a process of another user and sets its memory map: both need CAP_SYS_RESOURCE.
pytestmark = pytest.mark.vm

DATABASE = """
initdb -D /data/db -U postgres -A trust --no-sync --no-locale -E UTF8 > /dev/null
echo "host all all all trust" >> /data/db/pg_hba.conf
exec postgres -D /data/db -c listen_addresses=* -c unix_socket_directories=/tmp -c shared_buffers=32MB \\
  -c fsync=off -c autovacuum_naptime=1d -c checkpoint_timeout=1d -c bgwriter_delay=10s
"""

POOL = """
cat > /data/pool.ini << END
[databases]
* = host=DATABASE port=5432 user=postgres
[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir =
auth_type = any
pool_mode = POOL
default_pool_size = 4
END
exec pgbouncer /data/pool.ini
"""

AS_USER = {"run_as_user": 1000, "run_as_group": 1000, "no_new_privs": True, "drop_all": True}


def database(pods: Pods) -> Sleeper:
    """A PostgreSQL."""
    command = ["sh", "-ec", DATABASE]
    ready = "ready to accept connections"
    return workloads.start(pods, "postgres", command, ready, security=AS_USER)


@pytest.mark.smoke
@pytest.mark.timeout(120)
def test_postgres(pods: Pods) -> None:
    """Tables, a session's temporary table, an open transaction and shared memory are there after each sleep."""
    one = database(pods)
    with (
        Session(one.ip, 5432, ENOUGH) as session,
        Session(one.ip, 5432, ENOUGH) as other,
    ):
        session.query("CREATE TABLE kept (n int)")
        session.query("CREATE TEMPORARY TABLE mine (n int)")
        other.query("BEGIN")
        other.query("INSERT INTO kept VALUES (1000)")
        for number in range(1, 4):
            session.query(f"INSERT INTO kept VALUES ({number})")
            session.query(f"INSERT INTO mine VALUES ({number})")
            until(one.try_sleep)
            assert session.value("SELECT sum(n) FROM mine") == str(sum(range(number + 1)))
            assert session.value("SELECT count(*) FROM kept") == str(number)
            with Session(one.ip, 5432, ENOUGH) as new:
                assert new.value("SELECT count(*) FROM kept") == str(number)
        until(one.try_sleep)
        other.query("COMMIT")
        assert session.value("SELECT sum(n) FROM kept") == "1006"
    one.check()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_ten_cycles_of_a_pool(pods: Pods, mode: str) -> None:
    """Clients of a pool see no error while in turn the pool's pod, the database's, and both are asleep."""
    base = database(pods)
    script = POOL.replace("DATABASE", base.ip).replace("= POOL", f"= {mode}")
    pool = workloads.start(
        pods, "pgbouncer", ["sh", "-ec", script], "process up", security=AS_USER
    )
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Session(pool.ip, 6432, ENOUGH)) for _ in range(3)]
        clients[0].query("CREATE TABLE counter (n int)")
        clients[0].query("INSERT INTO counter VALUES (0)")
        count = 0
        for cycle in range(10):
            asleep = [(pool,), (base,), (pool, base)][cycle % 3]
            for one in asleep:
                until(one.try_sleep)
            # Whoever is later put to sleep may wake the other with what it has still to say.
            assert asleep[-1].state == "ASLEEP"
            for client in clients:
                count += 1
                client.query("UPDATE counter SET n = n + 1")
                assert client.value("SELECT n FROM counter") == str(count)
        assert pool.info()["sleeps"] >= 7
        assert base.info()["sleeps"] >= 6
    pool.check()
    base.check()


@pytest.mark.smoke
def test_nginx_with_workers_of_another_user(pods: Pods) -> None:
    """A master of root with workers of www-data, as the package has it, serves after each sleep with all of them."""
    script = (
        "sed 's/user root;/user www-data;/; s/worker_processes 1;/worker_processes 3;/' /etc/nginx/nginx.conf "
        "> /etc/nginx/users.conf; echo started; exec nginx -c /etc/nginx/users.conf -g 'daemon off;'"
    )
    pod = pods(annotations={SCALEDOWN: "1h"})
    one = Sleeper(pod.run("localhost/nginx:1", ["sh", "-c", script]))
    until(lambda: len(one.tree()) == 4)
    for _ in range(3):
        until(one.try_sleep)
        assert get(one.ip, 80, "/healthz") == "ok\n"
        # One of them answers before the last one is looked at.
        until(lambda: len(one.tree()) == 4)
    one.check()
