"""The services that make a node a cluster of one: etcd, control plane, kubelet, kube-proxy; on the node.

What they say and keep is in the node's state, so that a node that is started again with it is one that was rebooted.
Standard library only.
"""

import base64
import calendar
import json
import resource
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.lib.service import LOGS, RUN, Service

ADDRESS, GATEWAY = "10.77.0.2", "10.77.0.1"
PODS, SERVICES, API_SERVICE = "10.88.0.0/16", "10.96.0.0/16", "10.96.0.1"

FOLDER = Path("/etc/kubernetes")
PKI = FOLDER / "pki"
STATIC = FOLDER / "manifests"

ADMIN = FOLDER / "admin.conf"
"""With which everything is allowed, from the node itself and from wherever the API is at 127.0.0.1:6443."""

API = LOGS / "api.sock"
"""Where the API is reached from outside of the node's network: a directory that the host sees."""

#: kubelet sets sysctls that are the whole machine's. It leaves one alone that reads as it wants: it is shown files.
SYSCTLS = {
    "vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}  # fmt: skip

#: By which names, as in a registry, images are known that were imported as localhost/NAME:1.
REGISTRY = {
    "docker.io/library/nginx:1.29": "nginx",
    "docker.io/library/redis:8": "redis",
    "docker.io/library/busybox:1.37": "busybox",
    "docker.io/library/php:8.4-fpm": "php",
    "docker.io/library/python:3.13": "python",
}

#: Of the archives that a node imports only when it is asked to: those of the documentation's examples.
APPS = ("php.tar",)

#: Programs of other people restart containerd by it; for those the node has one that knows its own services.
SYSTEMCTL = """\
#!/bin/sh
# Of systemd this node has: systemctl is-active|reset-failed|restart|stop|start UNIT.
verb=
for word; do
  case $word in
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$word; else unit=${word%.service}; fi ;;
  esac
done
pid() { cat "/run/node/$unit.pid" 2>/dev/null; }
until_so() {
  for _ in $(seq 600); do "$@" && return; sleep 0.1; done
  echo "$unit: not so after a minute: $*" >&2
  exit 1
}
gone() { [ -z "$(pid)" ]; }
runs() { [ -n "$(pid)" ] && [ "$(pid)" != "$before" ]; }
before=$(pid)
if [ "$verb" != start ] && [ -z "$before" ]; then
  echo inactive
  echo "Unit $unit.service is not running." >&2
  exit 5
fi
case $verb in
  is-active) echo active ;;
  reset-failed) ;;
  restart) kill "$before"; until_so runs ;;
  stop)
    touch "/run/node/hold/$unit"
    kill "$before"
    # An API server waits a minute for those who watch.
    for _ in $(seq 50); do gone && exit; sleep 0.1; done
    kill -KILL "$before"
    until_so gone ;;
  start) rm -f "/run/node/hold/$unit"; before=; until_so runs ;;
  *) echo "this node has no systemctl $verb" >&2; exit 1 ;;
esac
"""

#: The node's own configuration of containerd: as a distribution's, NRI is off where that is its default.
CONTAINERD = """\
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "zeropod.dev/pause:1"
  restrict_oom_score_adj = %(restrict)s
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def prepare(name: str) -> None:
    """Writes what the services need: addresses, certificates, configurations."""
    _network(name)
    _system()
    STATIC.mkdir(parents=True, exist_ok=True)
    if not (PKI / "done").exists():
        PKI.mkdir(exist_ok=True)
        _certificates(name)
        (PKI / "done").touch()
    _kubeconfig(ADMIN, "https://127.0.0.1:6443", "admin")
    _kubeconfig(FOLDER / "kubelet.conf", f"https://{ADDRESS}:6443", "kubelet")
    _write(FOLDER / "kubelet.json", {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # From 1.35 on it refuses cgroup v1 otherwise.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(PKI / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(PKI / "kubelet.crt"),
        "tlsPrivateKeyFile": str(PKI / "kubelet.key"),
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "failSwapOn": False,
        "staticPodPath": str(STATIC),
        # Lowering it and raising this one take CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        "maxOpenFiles": _most_files(),
        # Images come from files: one that was collected could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "nodeStatusUpdateFrequency": "5s",
    })  # fmt: skip
    _write(FOLDER / "proxy.json", {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(ADMIN)},
        "clusterCIDR": PODS,
        "hostnameOverride": name,
        "oomScoreAdj": 0,
        # The tables' size is the machine's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })  # fmt: skip


def services(name: str) -> list[Service]:
    """What runs beside containerd; each is started again until it finds the others."""
    key, crt, ca = PKI / "apiserver.key", PKI / "apiserver.crt", PKI / "ca.crt"
    words = {
        "etcd": [
            f"--name={name}", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
            "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            f"--initial-cluster={name}=http://127.0.0.1:2380",
        ],
        "kube-apiserver": [
            f"--advertise-address={ADDRESS}", "--etcd-servers=http://127.0.0.1:2379",
            f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true", f"--client-ca-file={ca}",
            f"--tls-cert-file={crt}", f"--tls-private-key-file={key}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-certificate-authority={ca}", f"--kubelet-client-certificate={crt}",
            f"--kubelet-client-key={key}", "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-signing-key-file={PKI / 'sa.key'}", f"--service-account-key-file={PKI / 'sa.pub'}",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={ADMIN}", "--leader-elect=false", "--bind-address=127.0.0.1",
            "--use-service-account-credentials=true", f"--root-ca-file={ca}",
            f"--service-account-private-key-file={PKI / 'sa.key'}",
            f"--cluster-signing-cert-file={ca}", f"--cluster-signing-key-file={PKI / 'ca.key'}",
        ],
        "kube-scheduler": [f"--kubeconfig={ADMIN}", "--leader-elect=false", "--bind-address=127.0.0.1"],
        "kubelet": [
            f"--config={FOLDER / 'kubelet.json'}", f"--kubeconfig={FOLDER / 'kubelet.conf'}",
            f"--hostname-override={name}", f"--node-ip={ADDRESS}",
        ],
        "kube-proxy": [f"--config={FOLDER / 'proxy.json'}"],
    }  # fmt: skip
    found = [Service(one, [one, *flags], one) for one, flags in words.items()]
    relay = ["socat", f"UNIX-LISTEN:{API},fork,unlink-early", "TCP:127.0.0.1:6443"]
    return [*found, Service("api", relay, "api")]


def name_images() -> None:
    """Lets manifests name images as in a registry, which cannot be reached from here."""
    for name, local in REGISTRY.items():
        words = ["ctr", "-n", "k8s.io", "images", "tag", "--force", f"localhost/{local}:1", name]
        subprocess.run(words, check=True, capture_output=True)


def await_ready(name: str, born: float, wait: Callable[..., None]) -> None:
    """Waits until pods can be made.

    Args:
        name: of the node.
        born: when it was booted: what a kept state says of the node is older.
        wait: `wait(what, done, seconds)`.
    """
    wait("the API server", lambda: kubectl("get", "--raw=/readyz") == "ok", 90)
    # A pod needs its namespace's.
    wait("the controller manager", lambda: kubectl("get", "serviceaccount", "default"), 60)
    wait("kubelet", lambda: _ready_since(name) >= born - 1, 60)


def kubectl(*words: str) -> str:
    """What kubectl printed; nothing if it failed."""
    command = ["kubectl", f"--kubeconfig={ADMIN}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if not done.returncode else ""


def _ready_since(name: str) -> float:
    """When kubelet last said that the node is ready; 0 if it is not."""
    told = kubectl("get", "node", name, "-o", "json")
    for one in json.loads(told)["status"].get("conditions", []) if told else []:
        if one["type"] == "Ready" and one["status"] == "True":
            return float(
                calendar.timegm(time.strptime(one["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%SZ"))
            )
    return 0.0


def _network(name: str) -> None:
    """An interface with the node's address. Not every kernel has dummies: both ends of a pair are in here."""
    for words in (("link", "add", "eth0", "type", "veth", "peer", "name", "far"), ("link", "set", "far", "up"),
                  ("link", "set", "eth0", "up"), ("address", "add", f"{ADDRESS}/24", "dev", "eth0"),
                  # Before an address of a Service is translated there has to be some route to it.
                  ("route", "add", "default", "via", GATEWAY, "dev", "eth0")):  # fmt: skip
        subprocess.run(["ip", *words], check=True)
    # Pods reach themselves through a Service.
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1", encoding="ascii")
    with Path("/etc/hosts").open("a", encoding="utf-8") as hosts:
        hosts.write(f"{ADDRESS} {name}\n")


def _system() -> None:
    """What other people's programs look for on a node."""
    machine = Path("/etc/machine-id")
    if not (machine.exists() and machine.read_text(encoding="ascii").strip()):
        machine.write_text(f"{uuid.uuid4().hex}\n", encoding="ascii")
    program = Path("/usr/local/bin/systemctl")
    program.write_text(SYSTEMCTL, encoding="utf-8")
    program.chmod(0o755)
    Path("/run/systemd/system").mkdir(parents=True)
    shown = RUN / "sysctl"
    shown.mkdir()
    for item, value in SYSCTLS.items():
        place = Path("/proc/sys", item)
        if place.exists():
            file = shown / item.replace("/", ".")
            file.write_text(f"{value}\n", encoding="ascii")
            subprocess.run(["mount", "--bind", str(file), str(place)], check=True)


def _certificates(name: str) -> None:
    _openssl("req", "-x509", *_new_key("ca"), "-days", "3650", "-subj", "/CN=cluster", "-out", str(PKI / "ca.crt"),
             "-addext", "keyUsage=critical,keyCertSign,digitalSignature")  # fmt: skip
    _openssl("genrsa", "-out", str(PKI / "sa.key"), "2048")
    _openssl("rsa", "-in", str(PKI / "sa.key"), "-pubout", "-out", str(PKI / "sa.pub"))
    kubernetes = ",".join(f"DNS:kubernetes{rest}" for rest in ("", ".default", ".default.svc"))
    names = f"IP:127.0.0.1,IP:{ADDRESS},IP:{API_SERVICE},DNS:localhost,{kubernetes}"
    _certificate("apiserver", "/O=system:masters/CN=kube-apiserver", names)
    _certificate("admin", "/O=system:masters/CN=admin", "DNS:admin")
    _certificate("kubelet", f"/O=system:nodes/CN=system:node:{name}", f"IP:{ADDRESS},DNS:{name}")


def _certificate(name: str, subject: str, names: str) -> None:
    request, more = PKI / f"{name}.csr", PKI / f"{name}.ext"
    _openssl("req", *_new_key(name), "-subj", subject, "-out", str(request))
    more.write_text(
        f"keyUsage=digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\nsubjectAltName={names}\n",
        encoding="ascii",
    )
    _openssl("x509", "-req", "-in", str(request), "-CA", str(PKI / "ca.crt"), "-CAkey", str(PKI / "ca.key"),
             "-days", "3650", "-extfile", str(more), "-out", str(PKI / f"{name}.crt"))  # fmt: skip


def _new_key(name: str) -> list[str]:
    return [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        str(PKI / f"{name}.key"),
    ]


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def _kubeconfig(path: Path, server: str, user: str) -> None:
    def data(name: str) -> str:
        return base64.b64encode((PKI / name).read_bytes()).decode()

    own = {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}
    _write(path, {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "dev", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": user, "user": own}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": user}}],
        "current-context": "dev",
    })  # fmt: skip


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    path.chmod(0o600)


def _most_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
