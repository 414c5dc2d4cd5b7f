"""What configurations of admission webhooks must fulfil (pkg/apis/admissionregistration/validation)."""

from __future__ import annotations

from collections.abc import Sequence

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cel import engine
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import metadata, names
from netplane.kube.types import Object

_CHOICES = {
    "failurePolicy": ("Fail", "Ignore"),
    "matchPolicy": ("Equivalent", "Exact"),
    "reinvocationPolicy": ("IfNeeded", "Never"),
    "sideEffects": ("None", "NoneOnDryRun"),
}
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")
_LONGEST = 30
_MOST_CONDITIONS = 64
VARIABLES = ("object", "oldObject", "request")


def validate(obj: Object) -> list[Fault]:
    """Return every fault of a webhook configuration."""
    found: list[Fault] = []
    seen: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or ()):
        at = f"webhooks[{index}]"
        name = hook.get("name", "")
        found += [faults.invalid(f"{at}.name", name, each) for each in names.subdomain(name)]
        if name.count(".") < 2:
            detail = "should be a domain with at least three segments separated by dots"
            found.append(faults.invalid(f"{at}.name", name, detail))
        if name in seen:
            found.append(faults.duplicate(f"{at}.name", name))
        seen.add(name)
        found += _hook(hook, at)
    return found


def _hook(hook: Object, at: str) -> list[Fault]:
    found = client_config(hook.get("clientConfig") or {}, f"{at}.clientConfig")
    if not hook.get("sideEffects"):
        found.append(faults.required(f"{at}.sideEffects", "must specify one of None, NoneOnDryRun"))
    for field, known in _CHOICES.items():
        if hook.get(field) and hook[field] not in known:
            found.append(faults.not_supported(f"{at}.{field}", hook[field], known))
    seconds = hook.get("timeoutSeconds", 10)
    if not 1 <= seconds <= _LONGEST:
        found.append(
            faults.invalid(f"{at}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
        )
    versions = hook.get("admissionReviewVersions") or ()
    if not versions:
        detail = "must specify one of v1, v1beta1"
        found.append(faults.required(f"{at}.admissionReviewVersions", detail))
    elif not {"v1", "v1beta1"} & set(versions):
        detail = "must include at least one of v1, v1beta1"
        found.append(faults.invalid(f"{at}.admissionReviewVersions", versions, detail))
    for index, rule in enumerate(hook.get("rules") or ()):
        found += rule_faults(rule, f"{at}.rules[{index}]")
    found += conditions(hook.get("matchConditions") or (), f"{at}.matchConditions")
    for field in ("namespaceSelector", "objectSelector"):
        found += metadata.label_faults((hook.get(field) or {}).get("matchLabels") or {}, f"{at}.{field}")
    return found


def conditions(stated: Sequence[Object], at: str, variables: Sequence[str] = VARIABLES) -> list[Fault]:
    """Return every fault of `matchConditions`."""
    found: list[Fault] = []
    if len(stated) > _MOST_CONDITIONS:
        found.append(faults.too_many(at, len(stated), _MOST_CONDITIONS))
    seen: set[str] = set()
    for index, each in enumerate(stated):
        name = each.get("name", "")
        if not name:
            found.append(faults.required(f"{at}[{index}].name"))
        elif name in seen:
            found.append(faults.duplicate(f"{at}[{index}].name", name))
        seen.add(name)
        found += expression(each.get("expression", ""), f"{at}[{index}].expression", variables)
    return found


def expression(text: str, at: str, variables: Sequence[str]) -> list[Fault]:
    """Return why a text is no expression over these variables."""
    if not text.strip():
        return [faults.required(at)]
    try:
        engine.Program(text, variables)
    except engine.CompileError as error:
        return [faults.invalid(at, text, str(error))]
    return []


def rule_faults(rule: Object, at: str) -> list[Fault]:
    """Return every fault of a rule that says which writes are meant."""
    found: list[Fault] = []
    for field in ("operations", "apiGroups", "apiVersions", "resources"):
        if not rule.get(field):
            found.append(faults.required(f"{at}.{field}"))
    for index, each in enumerate(rule.get("operations") or ()):
        if each not in _OPERATIONS:
            found.append(faults.not_supported(f"{at}.operations[{index}]", each, _OPERATIONS))
    if rule.get("scope", "*") not in _SCOPES:
        found.append(faults.not_supported(f"{at}.scope", rule["scope"], _SCOPES))
    return found


def client_config(client: Object, at: str) -> list[Fault]:
    """Return every fault of the place where a webhook is called."""
    if ("url" in client) == ("service" in client):
        return [faults.required(at, "exactly one of url or service is required")]
    url = client.get("url")
    if url is not None:
        if not url.startswith("https://"):
            return [
                faults.invalid(
                    f"{at}.url", url, "'https' is the only allowed URL scheme; desired format: https://host[/path]"
                )
            ]
        if any(mark in url for mark in "?#@"):
            return [
                faults.invalid(f"{at}.url", url, "user information, query parameters and fragments are not permitted")
            ]
        return []
    service = client["service"] or {}
    return [faults.required(f"{at}.service.{name}") for name in ("name", "namespace") if not service.get(name)]
