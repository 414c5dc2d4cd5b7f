"""What names may look like. Every function returns the reasons why a text may not be one; none when it may.

The wordings are those of k8s.io/apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_DNS1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_QUALIFIED})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"

_label = re.compile(_LABEL).fullmatch
_subdomain = re.compile(_SUBDOMAIN).fullmatch
_dns1035 = re.compile(_DNS1035).fullmatch
_qualified = re.compile(_QUALIFIED).fullmatch
_value = re.compile(_VALUE).fullmatch
_config_key = re.compile(_CONFIG_KEY).fullmatch
_wildcard = re.compile(rf"\*\.{_SUBDOMAIN}").fullmatch
_port_charset = re.compile("[-a-z0-9]+").fullmatch
_percent = re.compile("[0-9]+%").fullmatch
_printable = re.compile("[ -<>-~]+").fullmatch

_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_DNS1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_DNS1035}')"
)
_NAME_PART = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_VALUE}')"
)
_WILDCARD_TEXT = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
    rf"regex used for validation is '\*\.{_SUBDOMAIN}')"
)
_CONFIG_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    f"or 'key-name', regex used for validation is '{_CONFIG_KEY}')"
)
PORT_RANGE = "must be between 1 and 65535, inclusive"
NOT_NEGATIVE = "must be greater than or equal to 0"
PERCENT_TEXT = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)


def _longer(text: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} characters"] if len(text) > limit else []


@lru_cache(4096)
def _subdomain_faults(text: str) -> tuple[str, ...]:
    return (*_longer(text, 253), *(() if _subdomain(text) else (_SUBDOMAIN_TEXT,)))


def subdomain(text: str) -> list[str]:
    """A DNS-1123 subdomain, the name of most objects."""
    if len(text) <= 253 and _subdomain(text):  # most are new ones: nothing is gained by remembering them
        return []
    return list(_subdomain_faults(text))


def label(text: str) -> list[str]:
    """A DNS-1123 label, as namespaces, containers and volumes are named."""
    return list(_label_faults(text))


@lru_cache(4096)
def _label_faults(text: str) -> tuple[str, ...]:
    return (*_longer(text, 63), *(() if _label(text) else (_LABEL_TEXT,)))


def dns1035_label(text: str) -> list[str]:
    """A DNS-1035 label, as Services are named."""
    return _longer(text, 63) + ([] if _dns1035(text) else [_DNS1035_TEXT])


def path_segment(text: str) -> list[str]:
    """Anything that stays one segment of a path, as roles are named."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{each}'" for each in "/%" if each in text]


@lru_cache(4096)
def _qualified_faults(text: str) -> tuple[str, ...]:
    prefix, slash, name = text.rpartition("/")
    faults: list[str] = []
    if "/" in prefix:
        return (
            f"a qualified name {_NAME_PART} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        )
    if slash:
        if not prefix:
            faults.append("prefix part must be non-empty")
        else:
            faults += [f"prefix part {each}" for each in _subdomain_faults(prefix)]
    if not name:
        faults.append("name part must be non-empty")
    elif len(name) > 63:
        faults.append("name part must be no more than 63 characters")
    if not _qualified(name):
        faults.append(f"name part {_NAME_PART}")
    return tuple(faults)


def qualified(text: str) -> list[str]:
    """A label or annotation key: a name with an optional DNS prefix."""
    return list(_qualified_faults(text))


@lru_cache(4096)
def _value_faults(text: str) -> tuple[str, ...]:
    return (*_longer(text, 63), *(() if _value(text) else (_VALUE_TEXT,)))


def label_value(text: str) -> list[str]:
    """The value of a label."""
    return list(_value_faults(text))


@lru_cache(4096)
def is_label(key: str, value: str) -> bool:
    """True when both are fit for a label: the common case, answered from memory."""
    return not _qualified_faults(key) and not _value_faults(value)


def port_name(text: str) -> list[str]:
    """An IANA service name, as ports are named."""
    faults = _longer(text, 15)
    if not _port_charset(text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any("a" <= each <= "z" for each in text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        faults.append("must not begin or end with a hyphen")
    return faults


def environment_name(text: str) -> list[str]:
    """The name of an environment variable."""
    if _printable(text):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret."""
    faults = _longer(text, 253)
    if not _config_key(text):
        faults.append(_CONFIG_KEY_TEXT)
    if text == ".":
        faults.append("must not be '.'")
    elif text == "..":
        faults.append("must not be '..'")
    elif text.startswith(".."):
        faults.append("must not start with '..'")
    return faults


def wildcard_subdomain(text: str) -> list[str]:
    """A host such as `*.example.com`."""
    return _longer(text, 253) + ([] if _wildcard(text) else [_WILDCARD_TEXT])


def ip(text: str) -> list[str]:
    """An IPv4 or IPv6 address."""
    return [] if is_ip(text) else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


@lru_cache(4096)
def is_ip(text: str) -> bool:
    """True for an IPv4 or IPv6 address without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


@lru_cache(1024)
def is_cidr(text: str) -> bool:
    """True for a prefix such as 10.0.0.0/8; bits beyond its length are allowed."""
    address, slash, length = text.partition("/")
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return bool(slash) and length.isdigit() and is_ip(address)


def cidr(text: str) -> list[str]:
    """A prefix such as 10.0.0.0/8."""
    return [] if is_cidr(text) else ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


def is_percent(text: str) -> bool:
    """True for `25%`."""
    return bool(_percent(text))


def is_port(value: object) -> bool:
    """True for a port number from 1 to 65535."""
    return isinstance(value, int) and 0 < value < 65536
