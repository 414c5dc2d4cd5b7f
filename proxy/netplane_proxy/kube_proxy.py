"""Understand kube-proxy's own flags and configuration file where the meaning is the same, and name what is not applied.

Of both there are four kinds (kube-proxy 1.34): what means the same here, what nobody misses here (there is no sync
period, and others' IPVS servers are never touched), what is not applied, of which a line tells, and what is none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from netplane.lib import cli

KIND = "KubeProxyConfiguration"

_SAME_MEANING = {
    "clientConnection.kubeconfig": "kubeconfig",
    "hostnameOverride": "node_name",
    "bindAddressHardFail": "bind_address_hard_fail",
    "mode": "mode",
    "clusterCIDR": "cluster_cidr",
    "nodePortAddresses": "nodeport_addresses",
    "healthzBindAddress": "healthz_bind_address",
    "metricsBindAddress": "metrics_bind_address",
    "detectLocalMode": "detect_local_mode",
    "detectLocal.bridgeInterface": "pod_bridge_interface",
    "detectLocal.interfaceNamePrefix": "pod_interface_name_prefix",
    "iptables.localhostNodePorts": "localhost_nodeports",
    "ipvs.scheduler": "ipvs_scheduler",
    "logging.format": "log_format",
}
"""Fields of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) to our options."""

_OF_MODE = {"masqueradeAll": "masquerade_all", "masqueradeBit": "masquerade_bit"}
"""Fields of the mode's own section; IPVS takes those of iptables, as kube-proxy does."""

_SECTIONS = {"nftables": ("nftables",), "iptables": ("iptables",), "ipvs": ("iptables",)}
_ANY_SECTION = "nftables", "iptables"
"""Where no mode is named: kube-proxy's is iptables then, so that section says what was wanted."""

_ALL = ["0.0.0.0/0", "::/0"]
_ON_ALL = "iptables", "ipvs"
"""Where NodePorts listen in these modes of kube-proxy if nothing is said; primary is nftables' default."""

_NOT_MISSED = frozenset(
    (
        *("apiVersion", "kind", "configSyncPeriod", "portRange", "udpIdleTimeout"),
        *("resourceContainer", "winkernel", "windowsRunAsService", "showHiddenMetricsForVersion", "logging"),
        *(f"clientConnection.{field}" for field in ("acceptContentTypes", "contentType", "qps", "burst")),
        *(f"{section}.{field}" for section in ("iptables", "ipvs", "nftables")
          for field in ("syncPeriod", "minSyncPeriod")),
        *(f"{section}.{field}" for section in ("iptables", "nftables") for field in _OF_MODE),
        *("ipvs.excludeCIDRs", "ipvs.strictARP"),
    )
)  # fmt: skip
"""Fields without a counterpart that change nothing for anybody; a section stands for all it holds."""

_CONNTRACK = "set the kernel's parameters net.netfilter.nf_conntrack_*"
_IPVS_TIMES = "set them with ipvsadm --set"
_NOT_APPLIED = {
    "bindAddress": "the node's addresses are those of its Node object",
    **{
        f"conntrack.{field}": _CONNTRACK
        for field in ("maxPerCore", "min", "tcpBeLiberal", "tcpCloseWaitTimeout", "tcpEstablishedTimeout",
                      "udpTimeout", "udpStreamTimeout")
    },
    "enableProfiling": "nothing is profiled",
    "featureGates": "there are none",
    "ipvs.tcpTimeout": _IPVS_TIMES,
    "ipvs.tcpFinTimeout": _IPVS_TIMES,
    "ipvs.udpTimeout": _IPVS_TIMES,
    "iptables.snatNodeInternalIP": "the way out says with which address a packet is masqueraded",
    "oomScoreAdj": "set it in the unit (OOMScoreAdjust)",
}  # fmt: skip
"""Fields that are not applied, and what to do instead."""

_UNSET: tuple[object, ...] = (None, "", 0, False, [], {}, "0s", "0.0.0.0", "::")
"""Values that say nothing."""

_BY_COMMAS = "cluster_cidr"
_LISTED = "nodeport_addresses"
"""The option whose flag may come several times, each with several values."""

_SWITCHES = frozenset(
    ("masquerade-all", "localhost-nodeports", "iptables-localhost-nodeports", "bind-address-hard-fail")
)
FLAGS_NOT_MISSED = frozenset(
    (
        *("config-sync-period", "iptables-sync-period", "iptables-min-sync-period", "ipvs-sync-period"),
        *("ipvs-min-sync-period", "ipvs-exclude-cidrs", "ipvs-strict-arp"),
        *("kube-api-burst", "kube-api-qps", "kube-api-content-type", "show-hidden-metrics-for-version"),
        *("v", "vmodule", "log-flush-frequency", "log-json-info-buffer-size", "log-json-split-stream"),
        *("log-text-info-buffer-size", "log-text-split-stream"),
    )
)
FLAGS_NOT_APPLIED = {
    "bind-address": _NOT_APPLIED["bindAddress"],
    **{
        f"conntrack-{name}": _CONNTRACK
        for name in ("max-per-core", "min", "tcp-be-liberal", "tcp-timeout-close-wait", "tcp-timeout-established",
                     "udp-timeout", "udp-timeout-stream")
    },
    **{f"ipvs-{name}-timeout": _IPVS_TIMES for name in ("tcp", "tcpfin", "udp")},
    "feature-gates": _NOT_APPLIED["featureGates"],
    "oom-score-adj": _NOT_APPLIED["oomScoreAdj"],
    "profiling": _NOT_APPLIED["enableProfiling"],
}  # fmt: skip
FLAGS_REFUSED = {
    "master": "name the API server in the file that --kubeconfig names",
    "healthz-port": "use --healthz-bind-address",
    "metrics-port": "use --metrics-bind-address",
    "write-config-to": "there is no such file to write",
    "init-only": "the proxy needs CAP_NET_ADMIN alone, from its start",
}
_FLAGS_WITHOUT_VALUE = _SWITCHES | {
    *("conntrack-tcp-be-liberal", "init-only", "ipvs-strict-arp", "profiling", "cleanup"),
    *("log-json-split-stream", "log-text-split-stream"),
}
FLAGS_RENAMED = {"logging-format": "log-format"}


class Command(click.Group):
    """A command that also takes kube-proxy's flags, and its file by --config."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Let --config read kube-proxy's file, too, as defaults below flags and environment."""
        super().__init__(*args, **options)
        (parameter,) = (one for one in self.params if one.name == "config")
        read_ours = parameter.callback
        assert read_ours is not None

        def read(context: click.Context, option: click.Parameter, path: Path | None) -> None:
            found = read_file(path) if path is not None else None
            if found is None:
                read_ours(context, option, path)
            else:
                context.default_map = {**(context.default_map or {}), **found}

        parameter.callback = read

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Read the command line as kube-proxy would."""
        ours = list(translated(args))
        if mode_of(ours) in _ON_ALL:
            context.default_map = {_LISTED: _ALL, **(context.default_map or {})}
        return super().parse_args(context, ours)


def translated(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments without what nobody misses, and `--switch=false` as click reads it.

    Says in a line what is not applied. UsageError for flags that would be misunderstood.
    """
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.lstrip("-").partition("=")
        name = name.replace("_", "-")
        if not arg.startswith("--") and not (arg.startswith("-") and name == "v"):
            yield arg
            continue
        if name in FLAGS_REFUSED:
            raise click.UsageError(f"--{name} of kube-proxy is not understood: {FLAGS_REFUSED[name]}")
        if name in FLAGS_NOT_MISSED or name in FLAGS_NOT_APPLIED:
            if not equals and name not in _FLAGS_WITHOUT_VALUE:
                value = next(rest, "")
            if name in FLAGS_NOT_APPLIED and value not in ("0", "0s", "false", "0.0.0.0", "::", ""):
                _tell(f"--{name}", FLAGS_NOT_APPLIED[name])
        elif equals and name in _FLAGS_WITHOUT_VALUE:
            yield from _switched(name, value)
        else:
            yield f"--{FLAGS_RENAMED[name]}{equals}{value}" if name in FLAGS_RENAMED else arg


def mode_of(args: Sequence[str]) -> str:
    """Return the mode that kube-proxy's own flag names; "" without it."""
    found = ""
    for arg, following in zip(args, (*args[1:], ""), strict=True):
        name, equals, value = arg.partition("=")
        if name == "--proxy-mode":
            found = value if equals else following
    return found


def _switched(name: str, value: str) -> Iterator[str]:
    if value not in ("true", "false"):
        raise click.UsageError(f"--{name}: {value!r} is neither true nor false")
    if value == "true":
        yield f"--{name}"
    elif name in _SWITCHES:
        yield f"--no-{name}"


def read_file(path: Path) -> dict[str, Any] | None:
    """Return the options that a KubeProxyConfiguration sets; None when the file is of another kind.

    Empty fields mean their default, as they do for kube-proxy. Says in a line for each what is not applied. UsageError
    for fields that there are none of.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the common reader says what is wrong with it
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return None
    _check(content, path)
    mode = str(content.get("mode") or "")
    found: dict[str, Any] = {_LISTED: _ALL} if mode in _ON_ALL else {}
    for field, option in _fields(mode):
        value = _at(content, field)
        if value in (None, "", []):
            continue
        if option == _BY_COMMAS and isinstance(value, list):
            value = ",".join(map(str, value))
        if option == _LISTED and not isinstance(value, list):
            value = [value]
        found[option] = value
    return found


def _fields(mode: str) -> Iterator[tuple[str, str]]:
    """Yield the fields that count, with the option that each is, the weightier ones later."""
    yield from _SAME_MEANING.items()
    for section in _SECTIONS.get(mode, _ANY_SECTION):
        for field, option in _OF_MODE.items():
            yield f"{section}.{field}", option


def _check(content: Mapping[str, Any], path: Path, prefix: str = "") -> None:
    """Refuse fields that kube-proxy has none of, and tell of those that are not applied."""
    known = {*_SAME_MEANING, *_NOT_MISSED, *_NOT_APPLIED}
    for key, value in content.items():
        field = f"{prefix}{key}"
        if field in _NOT_APPLIED:
            if value not in _UNSET:
                _tell(f"configuration {path}: {field}", _NOT_APPLIED[field])
        elif any(one.startswith(f"{field}.") for one in known) and field not in known:
            if not isinstance(value, Mapping | None):
                raise click.UsageError(f"configuration {path}: {field} must be a mapping of fields to values")
            _check(value or {}, path, f"{field}.")
        elif field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"configuration {path}: {KIND} has no field {field}{hint}")


def _tell(what: str, instead: str) -> None:
    cli.complain(f"{what} of kube-proxy is not applied here: {instead}")


def _at(content: Mapping[str, Any], field: str) -> Any:
    value: Any = content
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
