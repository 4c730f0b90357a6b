"""Reads user data as the machine that boots with it does: nodeadm, AL2's bootstrap.sh, or Bottlerocket.

The outcome is one kubelet configuration, or an error that says why no kubelet would join.
"""

import email
import re
import shlex
import tomllib
from dataclasses import dataclass, field

import yaml

LIMIT_BYTES = 16384


class WouldNotJoin(Exception):
    """Why a machine with this user data does not become a node."""


@dataclass
class Kubelet:
    """What a kubelet is told, whatever the way."""

    cluster: str
    endpoint: str
    ca: str
    labels: dict[str, str] = field(default_factory=dict)
    # (key, value, effect)
    taints: list[tuple[str, str, str]] = field(default_factory=list)
    max_pods: int | None = None
    pods_per_core: int | None = None
    cluster_dns: list[str] = field(default_factory=list)
    kube_reserved: dict[str, str] = field(default_factory=dict)
    system_reserved: dict[str, str] = field(default_factory=dict)
    eviction_hard: dict[str, str] = field(default_factory=dict)
    raid0: bool = False
    service_cidr: str | None = None


def read(family: str, text: str) -> Kubelet:
    """`family` is al2023, al2 or bottlerocket."""
    if len(text.encode()) > LIMIT_BYTES:
        raise WouldNotJoin(
            f"the user data has {len(text.encode())} bytes, {LIMIT_BYTES} are allowed"
        )
    if not text.strip():
        raise WouldNotJoin("there is no user data")
    return {"al2023": _nodeadm, "al2": _bootstrap, "bottlerocket": _bottlerocket}[
        family
    ](text)


def _parts(text: str) -> list[tuple[str, str]]:
    """(content type, content) of each MIME part; of the whole, if it is no MIME."""
    if not re.match(r"(?i)(mime-version|content-type):", text.lstrip()):
        return [("", text)]
    message = email.message_from_string(text.lstrip())
    if not message.is_multipart():
        raise WouldNotJoin(
            "the MIME message has no parts, or its boundary does not match"
        )
    parts = []
    for part in message.walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            parts.append((part.get_content_type(), payload.decode() if payload else ""))
    return parts


def _merge(into: dict, other: dict) -> dict:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and key == "flags":
            into[key] = into.get(key, []) + value
        else:
            into[key] = value
    return into


def _nodeadm(text: str) -> Kubelet:
    """AL2023: all NodeConfig documents, merged in order."""
    config: dict = {}
    for type_, content in _parts(text):
        if type_ in ("application/node.eks.aws", "") and "node.eks.aws" in (
            type_ + content
        ):
            try:
                documents = [
                    document for document in yaml.safe_load_all(content) if document
                ]
            except yaml.YAMLError as error:
                raise WouldNotJoin(
                    f"nodeadm cannot parse the NodeConfig: {error}"
                ) from error
            for document in documents:
                if (
                    document.get("kind") != "NodeConfig"
                    or document.get("apiVersion") != "node.eks.aws/v1alpha1"
                ):
                    raise WouldNotJoin(
                        f"nodeadm does not know {document.get('apiVersion')} {document.get('kind')}"
                    )
                _merge(config, document.get("spec") or {})
    if not config:
        raise WouldNotJoin("nodeadm finds no NodeConfig of node.eks.aws/v1alpha1")
    cluster = config.get("cluster") or {}
    for name in ("name", "apiServerEndpoint", "certificateAuthority", "cidr"):
        if not cluster.get(name):
            raise WouldNotJoin(f"nodeadm needs spec.cluster.{name}")
    kubelet = config.get("kubelet") or {}
    settings = kubelet.get("config") or {}
    found = Kubelet(
        cluster=cluster["name"],
        endpoint=cluster["apiServerEndpoint"],
        ca=cluster["certificateAuthority"],
        service_cidr=cluster["cidr"],
        max_pods=settings.get("maxPods"),
        pods_per_core=settings.get("podsPerCore"),
        cluster_dns=settings.get("clusterDNS") or [],
        kube_reserved=settings.get("kubeReserved") or {},
        system_reserved=settings.get("systemReserved") or {},
        eviction_hard=settings.get("evictionHard") or {},
        raid0=((config.get("instance") or {}).get("localStorage") or {}).get("strategy")
        == "RAID0",
    )
    for taint in settings.get("registerWithTaints") or []:
        found.taints.append((taint["key"], taint.get("value") or "", taint["effect"]))
    _flags(
        found,
        [word for flag in kubelet.get("flags") or [] for word in shlex.split(flag)],
    )
    return found


def _bootstrap(text: str) -> Kubelet:
    """AL2: the arguments of the first call of /etc/eks/bootstrap.sh."""
    scripts = [
        content
        for type_, content in _parts(text)
        if type_ in ("text/x-shellscript", "text/plain", "")
    ]
    for script in scripts:
        joined = script.replace("\\\n", " ")
        if match := re.search(r"/etc/eks/bootstrap\.sh\s+(.*)", joined, re.DOTALL):
            # Up to the end of the command, which may have quoted newlines.
            try:
                words = _words(match[1])
            except ValueError as error:
                raise WouldNotJoin(
                    f"bash cannot parse the call of bootstrap.sh: {error}"
                ) from error
            return _bootstrap_arguments(words)
    raise WouldNotJoin("no part calls /etc/eks/bootstrap.sh")


def _words(text: str) -> list[str]:
    """The words of the first shell command of `text`."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= {";", "\n"}:
            break
        words.append(word)
    return words


def _bootstrap_arguments(words: list[str]) -> Kubelet:
    options, positional = {}, []
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            options[name] = value if equals else next(rest, "")
        else:
            positional.append(word)
    if len(positional) != 1:
        raise WouldNotJoin("bootstrap.sh needs one cluster name")
    for name in ("--apiserver-endpoint", "--b64-cluster-ca"):
        if not options.get(name):
            raise WouldNotJoin(
                f"bootstrap.sh without {name} asks EKS, which the node role here may not"
            )
    found = Kubelet(
        cluster=positional[0],
        endpoint=options["--apiserver-endpoint"],
        ca=options["--b64-cluster-ca"],
    )
    if dns := options.get("--dns-cluster-ip"):
        found.cluster_dns = [dns]
    found.raid0 = options.get("--local-disks") == "raid0"
    _flags(found, shlex.split(options.get("--kubelet-extra-args", "")))
    return found


def _flags(kubelet: Kubelet, flags: list[str]) -> None:
    """Flags of the kubelet itself."""
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not name.startswith("--") or not equals:
            raise WouldNotJoin(f"the kubelet does not understand {flag!r}")
        match name:
            case "--node-labels":
                kubelet.labels |= _pairs(value)
            case "--register-with-taints":
                kubelet.taints += [_taint(text) for text in value.split(",") if text]
            case "--max-pods":
                kubelet.max_pods = int(value)
            case "--pods-per-core":
                kubelet.pods_per_core = int(value)
            case "--kube-reserved":
                kubelet.kube_reserved |= _pairs(value)
            case "--system-reserved":
                kubelet.system_reserved |= _pairs(value)
            case "--eviction-hard":
                kubelet.eviction_hard |= _pairs(value, "<")


def _pairs(text: str, separator: str = "=") -> dict[str, str]:
    pairs = {}
    for pair in filter(None, text.split(",")):
        key, found, value = pair.partition(separator)
        if not found:
            raise WouldNotJoin(f"{pair!r} is not key{separator}value")
        pairs[key] = value
    return pairs


def _taint(text: str) -> tuple[str, str, str]:
    head, colon, effect = text.rpartition(":")
    key, _, value = head.partition("=")
    if not colon or not key:
        raise WouldNotJoin(f"{text!r} is not a taint key=value:effect")
    return (key, value, effect)


def _bottlerocket(text: str) -> Kubelet:
    try:
        settings = tomllib.loads(text).get("settings", {}).get("kubernetes", {})
    except tomllib.TOMLDecodeError as error:
        raise WouldNotJoin(f"Bottlerocket cannot parse the TOML: {error}") from error
    for name in ("cluster-name", "api-server", "cluster-certificate"):
        if not settings.get(name):
            raise WouldNotJoin(f"Bottlerocket needs settings.kubernetes.{name}")
    dns = settings.get("cluster-dns-ip") or []
    found = Kubelet(
        cluster=settings["cluster-name"],
        endpoint=settings["api-server"],
        ca=settings["cluster-certificate"],
        labels=dict(settings.get("node-labels") or {}),
        max_pods=settings.get("max-pods"),
        cluster_dns=dns if isinstance(dns, list) else [dns],
        kube_reserved=dict(settings.get("kube-reserved") or {}),
        system_reserved=dict(settings.get("system-reserved") or {}),
        eviction_hard=dict(settings.get("eviction-hard") or {}),
    )
    for key, values in (settings.get("node-taints") or {}).items():
        for value in values if isinstance(values, list) else [values]:
            head, colon, effect = value.rpartition(":")
            if not colon:
                raise WouldNotJoin(f"{value!r} of node-taints is not value:effect")
            found.taints.append((key, head, effect))
    found.raid0 = "ephemeral-storage" in str(
        tomllib.loads(text).get("settings", {}).get("bootstrap-commands", "")
    )
    return found
