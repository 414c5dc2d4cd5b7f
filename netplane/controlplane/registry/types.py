"""What a resource type is: the row of data that routing, admission and tables read. The rows are in `groups`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.shape import Shape
from netplane.kube.types import Object, Resource

Cells = Callable[[Object, datetime], list[Any]]
"""Object and now to one table row, a cell for each column."""

FieldLabels = Mapping[str, Callable[[Object], str]]
"""Field selector name to its reader, as `spec.nodeName` of pods."""

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)


@dataclass(slots=True)
class Reading:
    """What a decode found: the errors that make an object unreadable, and the fields its type does not have."""

    errors: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a Table; priority 0 is printed always, 1 with `-o wide`."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    def definition(self) -> Object:
        """The column as an entry of `Table.columnDefinitions`."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Subresource:
    """A subresource as discovery shows it. An empty `kind` is the parent's own."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where an object keeps what its Scale shows; `selector` is a LabelSelector, a map of labels, or its text."""

    replicas: tuple[str, ...] = ("spec", "replicas")
    status_replicas: tuple[str, ...] = ("status", "replicas")
    selector: tuple[str, ...] = ("spec", "selector")


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a served version is kept: as another resource. Both functions return a new object.

    With a `webhook` (a definition's WebhookConversion) it is for that to convert, and the functions take only what it
    has converted.
    """

    stored: Resource
    to_stored: Callable[[Object], Object]
    from_stored: Callable[[Object], Object]
    webhook: Object | None = None


def _nothing(_obj: Object) -> None:
    return None


def _nothing_to_update(_new: Object, _old: Object) -> None:
    return None


def _no_faults(_obj: Object) -> list[Fault]:
    return []


def _no_update_faults(_new: Object, _old: Object) -> list[Fault]:
    return []


def _object_name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def _object_namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))


def name_cells(obj: Object, now: datetime) -> list[Any]:
    """NAME and AGE: the row of a type that has no columns of its own."""
    return [obj["metadata"].get("name", ""), obj["metadata"].get("creationTimestamp", "")]


NAME_COLUMNS = (Column("Name", "string", "name"), Column("Created At", "date"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceType:
    """Everything the control plane knows of one resource type.

    The hooks change the object they are given first, in place, and never the old one:
    `prepare_create(obj)` and `prepare_update(new, old)` drop what a client may not set; `default(obj)` fills in;
    `validate(obj)`, `validate_create(obj)`, `validate_update(new, old)` and `validate_status(new, old)` return every
    fault. `registry.strategy` calls them in the right order.

    What follows from the other fields is a field as well: every request asks for several of them several times.
    """

    resource: Resource
    singular: str
    definition: str = ""
    shape: Shape | None = None
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    scale: ScalePaths | None = None
    columns: tuple[Column, ...] = NAME_COLUMNS
    cells: Cells = name_cells
    row_conditions: Callable[[Object], list[Object]] | None = None
    field_labels: FieldLabels = field(default_factory=dict)
    has_generation: bool = False
    allows_unconditional_update: bool = True
    is_computed: bool = False
    creates_with_status: bool = False
    status_keeps_metadata: bool = False
    name_faults: Callable[[str], list[str]] = names.subdomain
    read: Callable[[Object], Reading] | None = None
    prepare_create: Callable[[Object], None] = _nothing
    prepare_update: Callable[[Object, Object], None] = _nothing_to_update
    default: Callable[[Object], None] = _nothing
    validate: Callable[[Object], list[Fault]] = _no_faults
    validate_create: Callable[[Object], list[Fault]] = _no_faults
    validate_update: Callable[[Object, Object], list[Fault]] = _no_update_faults
    validate_status: Callable[[Object, Object], list[Fault]] = _no_update_faults
    conversion: Conversion | None = None
    crd: Object | None = None
    deprecation: str = ""
    """What every request for it is warned with."""

    group: str = field(init=False, repr=False, compare=False)
    """API group, "" for core."""
    version: str = field(init=False, repr=False, compare=False)
    """API version within the group."""
    api_version: str = field(init=False, repr=False, compare=False)
    """`apps/v1`."""
    plural: str = field(init=False, repr=False, compare=False)
    """The name in the URL."""
    kind: str = field(init=False, repr=False, compare=False)
    """The name in the object."""
    namespaced: bool = field(init=False, repr=False, compare=False)
    """Whether objects live in a namespace."""
    stored: Resource = field(init=False, repr=False, compare=False)
    """The resource under which the store keeps the objects: another one for converted versions."""
    storage: str = field(init=False, repr=False, compare=False)
    """The store's name for the objects; all versions of a type share it."""
    is_storage: bool = field(init=False, repr=False, compare=False)
    """Whether this is the version that the store keeps."""
    is_stored: bool = field(init=False, repr=False, compare=False)
    """False for reviews and metrics, which are answered and not kept."""
    has_status: bool = field(init=False, repr=False, compare=False)
    """Whether `status` is written through its own subresource only."""

    def __post_init__(self) -> None:
        of, stored = self.resource, self.conversion.stored if self.conversion else self.resource
        told: dict[str, object] = {
            "group": of.group,
            "version": of.version,
            "api_version": of.api_version,
            "plural": of.plural,
            "kind": of.kind,
            "namespaced": of.namespaced,
            "stored": stored,
            "storage": stored.group_resource,
            "is_storage": stored == of,
            "is_stored": "get" in self.verbs and not self.is_computed,
            "has_status": self.subresource("status") is not None,
        }
        for name, value in told.items():
            object.__setattr__(self, name, value)

    @property
    def list_kind(self) -> str:
        """The kind of a list of them."""
        if self.crd is not None:
            return str(self.crd["spec"]["names"].get("listKind") or f"{self.kind}List")
        return f"{self.kind}List"

    def field_reader(self, name: str) -> Callable[[Object], str] | None:
        """Return the reader of a field that selectors may name, None when they may not."""
        if name == "metadata.name":
            return _object_name
        if name == "metadata.namespace" and self.namespaced:
            return _object_namespace
        return self.field_labels.get(name)

    def subresource(self, name: str) -> Subresource | None:
        """Return the named subresource, None when there is none."""
        for each in self.subresources:  # a loop, not a generator: every write asks this several times
            if each.name == name:
                return each
        return None
