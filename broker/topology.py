"""Topology files: a document understood as entries, section by section.

Law: everything that can be wrong in a file by itself is found here, at its place: names, types,
patterns, hashes, references to what is missing. The keys are those of RabbitMQ's definitions;
what an export holds beyond them is skipped, or noted if somebody might miss it. The short forms
for people are described in deploy/README.md.

Called by: definitions.
"""

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from leveret.broker.core.checks import RESERVED
from leveret.broker.core.patterns import compile_pattern
from leveret.broker.core.policy import APPLY_TO, Policy
from leveret.broker.core.registry import Registry
from leveret.broker.core.users import (
    DEFAULT_ALGORITHM,
    Permissions,
    TopicPermissions,
    User,
    check_hash,
)
from leveret.broker.core.vhost import PREDECLARED, TRACE
from leveret.broker.document import Node, nearest
from leveret.broker.entries import (
    BindingEntry,
    Definitions,
    ExchangeEntry,
    PermissionEntry,
    PolicyEntry,
    QueueEntry,
    TopicPermissionEntry,
    UserEntry,
    VhostEntry,
    located,
)

SECTIONS = (
    "vhosts",
    "users",
    "permissions",
    "topic_permissions",
    "policies",
    "operator_policies",
    "parameters",
    "global_parameters",
    "exchanges",
    "queues",
    "bindings",
)
# What an export says about itself.
ABOUT = (
    "rabbit_version",
    "rabbitmq_version",
    "product_name",
    "product_version",
    "rabbitmq_definition_format",
    "original_cluster_name",
    "original_vhost_name",
    "explanation",
    "metadata",
    "description",
    "default_queue_type",
    "limits",
)
LIMITS = ("max-queues", "max-connections")


class _Named(NamedTuple):
    """An entry of a section, in the long form or one of the short ones."""

    node: Node
    name: str
    word: str | None  # `name: word`
    fields: dict[str, Node]


def _named(section: Node, known: Collection[str], what: str, word: str = "") -> list[_Named]:
    """Return the entries of a section: a list of names or mappings, or a mapping by name."""
    if isinstance(section.content, dict):
        found = [_by_name(name, node, known, word) for name, node in section.content.items()]
    else:
        nodes = section.elements(f"a list of {what}, or a mapping by name")
        found = [_listed(node, known) for node in nodes]
    for entry in found:
        if not entry.name or len(entry.name.encode()) > 255:
            raise entry.node.error("a name of 1 to 255 bytes is allowed")
    return found


def _by_name(name: str, node: Node, known: Collection[str], word: str) -> _Named:
    if node.content is None:
        return _Named(node, name, None, {})
    if isinstance(node.content, str) and word:
        return _Named(node, name, node.content, {})
    if isinstance(node.content, dict):
        return _Named(node, name, None, node.mapping(known))
    raise node.expected(f"a mapping with {', '.join(known)}" + (f", or {word}" if word else ""))


def _listed(node: Node, known: Collection[str]) -> _Named:
    if isinstance(node.content, str):
        return _Named(node, node.content, None, {})
    if isinstance(node.content, dict):
        fields = node.mapping(("name", *known), ("name",))
        return _Named(node, fields["name"].text("a name"), None, fields)
    raise node.expected(f"a name, or a mapping with name, {', '.join(known)}")


class Reader:
    """One walk over a document: nodes in, entries out. Methods are named after sections."""

    def __init__(self, root: Node, default_vhost: str, registry: Registry | None = None) -> None:
        self._registry = Registry() if registry is None else registry
        self.definitions = Definitions()
        self.default_vhost = default_vhost
        known = (*SECTIONS, *ABOUT)
        sections = root.mapping(known) if root.content is not None else {}
        self.vhost_names = {default_vhost}
        self.exchange_names: set[tuple[str, str]] = set()
        self.queue_names: set[tuple[str, str]] = set()
        for name in SECTIONS:  # not the file's order: references look back
            section = sections.get(name)
            if section is not None and section.content is not None:
                read_section: Callable[[Node], None] = getattr(self, name)
                read_section(section)

    # Fields

    def vhost(self, fields: dict[str, Node]) -> str:
        if "vhost" not in fields:
            return self.default_vhost
        node = fields["vhost"]
        name = node.text("the name of a virtual host")
        if name not in self.vhost_names:
            raise node.error(f"no virtual host '{name}'; {nearest(name, self.vhost_names)}")
        return name

    @staticmethod
    def boolean(fields: dict[str, Node], name: str, default: bool) -> bool:
        return fields[name].boolean() if name in fields else default

    @staticmethod
    def arguments(fields: dict[str, Node], name: str = "arguments") -> dict[str, object]:
        node = fields.get(name)
        if node is None or node.content is None or node.content == []:
            return {}  # some exports write an empty table as a list
        return {key: value.plain() for key, value in node.items("a mapping of arguments").items()}

    @staticmethod
    def pattern(fields: dict[str, Node], name: str) -> str:
        pattern = fields[name].text("a pattern (a regular expression)")
        with located(fields[name]):
            compile_pattern(pattern)
        return pattern

    # Sections

    def vhosts(self, section: Node) -> None:
        known = ("limits", "metadata", "description", "tags", "default_queue_type", "tracing")
        for entry in _named(section, known, "virtual hosts"):
            self.vhost_names.add(entry.name)
            most = self.limits(entry.fields["limits"]) if "limits" in entry.fields else None
            self.definitions.vhosts.append(VhostEntry(entry.node, entry.name, most))

    def limits(self, node: Node) -> int | None:
        """Read limits, which exports write as a mapping, or as an empty list."""
        if node.content is None or node.content == []:
            return None
        limits = node.mapping(LIMITS)
        if "max-connections" in limits:
            self.note(limits["max-connections"], "this limit has no effect")
        most = limits["max-queues"].integer() if "max-queues" in limits else -1
        return most if most >= 0 else None

    def users(self, section: Node) -> None:
        known = ("password", "password_hash", "hashing_algorithm", "tags", "limits", "permissions")
        for entry in _named(section, known, "users"):
            fields = entry.fields
            if "password" in fields and "password_hash" in fields:
                raise fields["password"].error("give a password or a password_hash, not both")
            if "password" not in fields and "password_hash" not in fields:
                raise entry.node.error(f"user '{entry.name}' needs a password or a password_hash")
            password = fields["password"].text() if "password" in fields else None
            hashed = fields["password_hash"].text() if password is None else ""
            algorithm = DEFAULT_ALGORITHM
            if "hashing_algorithm" in fields:
                algorithm = fields["hashing_algorithm"].text()
            with located(entry.node):
                check_hash(entry.name, hashed, algorithm)
            user = User(entry.name, hashed, algorithm, self.tags(fields.get("tags")))
            self.definitions.users.append(UserEntry(entry.node, user, password))
            if "permissions" in fields:
                self.permissions_of(entry.name, fields["permissions"])

    @staticmethod
    def tags(node: Node | None) -> tuple[str, ...]:
        if node is None or node.content is None:
            return ()
        if isinstance(node.content, str):  # exports before 3.9: separated by commas
            return tuple(tag.strip() for tag in node.content.split(",") if tag.strip())
        return tuple(tag.text("a tag") for tag in node.elements("a list of tags"))

    def permissions_of(self, user: str, node: Node) -> None:
        """Read the short form: by virtual host, one pattern for all three or each its own."""
        for vhost, entry in node.items("a mapping of virtual hosts to patterns").items():
            if vhost not in self.vhost_names:
                hint = nearest(vhost, self.vhost_names)
                raise entry.error(f"no virtual host '{vhost}'; {hint}")
            if isinstance(entry.content, str):
                one = self.pattern({"all": entry}, "all")
                permissions = Permissions(one, one, one)
            else:
                three = Permissions._fields
                fields = entry.mapping(three, three)
                permissions = Permissions(*(self.pattern(fields, name) for name in three))
            self.definitions.permissions.append(PermissionEntry(entry, user, vhost, permissions))

    def permissions(self, section: Node) -> None:
        three = Permissions._fields
        for node in section.elements("a list of permissions"):
            fields = node.mapping(("user", "vhost", *three), ("user", *three))
            permissions = Permissions(*(self.pattern(fields, name) for name in three))
            user, vhost = fields["user"].text("the name of a user"), self.vhost(fields)
            self.definitions.permissions.append(PermissionEntry(node, user, vhost, permissions))

    def topic_permissions(self, section: Node) -> None:
        two = TopicPermissions._fields
        for node in section.elements("a list of topic permissions"):
            fields = node.mapping(("user", "vhost", "exchange", *two), ("user", "exchange", *two))
            self.definitions.topic_permissions.append(
                TopicPermissionEntry(
                    node,
                    fields["user"].text("the name of a user"),
                    self.vhost(fields),
                    fields["exchange"].text("the name of an exchange"),
                    TopicPermissions(*(fields[name].text("a pattern") for name in two)),
                )
            )

    def policies(self, section: Node, *, operator: bool = False) -> None:
        known = ("vhost", "pattern", "apply-to", "priority", "definition")
        for entry in _named(section, known, "policies"):
            self.policy(entry.node, entry.name, entry.fields, self.vhost(entry.fields), operator)

    def operator_policies(self, section: Node) -> None:
        self.policies(section, operator=True)

    def policy(
        self, node: Node, name: str, fields: dict[str, Node], vhost: str, operator: bool
    ) -> None:
        for required in ("pattern", "definition"):
            if required not in fields:
                raise node.error(f"policy '{name}' needs '{required}'")
        definition = fields["definition"].items("a mapping of settings")
        known = self._registry.policy_keys
        for key, value in definition.items():
            if key not in known:
                raise value.error(f"unknown setting '{key}'; {nearest(key, known)}")
            if wanted := known[key](value.plain()):
                raise value.expected(wanted)
        apply_to = fields["apply-to"].text() if "apply-to" in fields else "all"
        if apply_to not in APPLY_TO:
            raise fields["apply-to"].expected("one of " + ", ".join(APPLY_TO))
        policy = Policy(
            name,
            self.pattern(fields, "pattern"),
            {key: value.plain() for key, value in definition.items()},
            apply_to,
            fields["priority"].integer() if "priority" in fields else 0,
        )
        self.definitions.policies.append(PolicyEntry(node, vhost, policy, operator))

    def parameters(self, section: Node) -> None:
        """Read what RabbitMQ keeps as parameters: here operator policies and vhost limits."""
        for node in section.elements("a list of parameters"):
            fields = node.mapping(("component", "name", "value", "vhost"), ("component", "value"))
            component, vhost = fields["component"].text(), self.vhost(fields)
            if component == "operator_policy":
                value = fields["value"].mapping(("pattern", "apply-to", "priority", "definition"))
                name = fields["name"].text() if "name" in fields else ""
                self.policy(node, name, value, vhost, operator=True)
            elif component == "vhost-limits":
                most = self.limits(fields["value"])
                self.definitions.vhosts.append(VhostEntry(node, vhost, most))
            else:
                self.note(node, f"the parameter '{component}' has no effect")

    def global_parameters(self, section: Node) -> None:
        """Accept what only names and tags a cluster."""
        section.elements("a list of parameters")

    def exchanges(self, section: Node) -> None:
        flags = ("durable", "auto_delete", "internal")
        known = ("vhost", "type", *flags, "arguments")
        for entry in _named(section, known, "exchanges", "an exchange type"):
            fields, vhost = entry.fields, self.vhost(entry.fields)
            node = fields.get("type", entry.node)
            name = fields["type"].text("an exchange type") if "type" in fields else "direct"
            name = entry.word or name
            if name not in self._registry.exchange_types:
                hint = nearest(name, self._registry.exchange_types)
                raise node.error(f"unknown exchange type '{name}'; {hint}")
            self.exchange_names.add((vhost, entry.name))
            durable, auto_delete, internal = (
                self.boolean(fields, flag, flag == "durable") for flag in flags
            )
            predeclared = entry.name in dict(PREDECLARED) or entry.name == TRACE
            if entry.name.startswith(RESERVED) and not predeclared:
                raise entry.node.error(f"names that begin with '{RESERVED}' are reserved")
            arguments = self.arguments(fields)
            self.definitions.exchanges.append(
                ExchangeEntry(
                    entry.node, vhost, entry.name, name, durable, auto_delete, internal, arguments
                )
            )

    def queues(self, section: Node) -> None:
        known = ("vhost", "type", "durable", "auto_delete", "arguments")
        for entry in _named(section, known, "queues"):
            fields, vhost = entry.fields, self.vhost(entry.fields)
            arguments = self.arguments(fields)
            if "type" in fields:
                kind = fields["type"].text("a queue type")
                if kind != arguments.setdefault("x-queue-type", kind):
                    raise fields["type"].error("type and the argument x-queue-type differ")
                if kind == "classic" and "x-queue-type" not in _names(fields.get("arguments")):
                    del arguments["x-queue-type"]  # what a queue without the argument is
            self.queue_names.add((vhost, entry.name))
            durable = self.boolean(fields, "durable", True)
            auto_delete = self.boolean(fields, "auto_delete", False)
            self.definitions.queues.append(
                QueueEntry(entry.node, vhost, entry.name, durable, auto_delete, arguments)
            )

    def bindings(self, section: Node) -> None:
        for node in section.elements("a list of bindings"):
            if isinstance(node.content, str):
                ends, _, key = node.content.partition(": ")
                self.bind_line(node, ends, [key.strip()])
            elif isinstance(node.content, dict) and len(node.content) == 1:
                # YAML itself splits `orders -> invoices: order.*` at the colon
                ((ends, value),) = node.content.items()
                self.bind_line(node, ends, self.binding_keys(value))
            else:
                self.bind(node)

    @staticmethod
    def binding_keys(value: Node) -> list[str]:
        if isinstance(value.content, list):
            return [key.text("a binding key") for key in value.content]
        if value.content is None:
            raise value.error("the binding key is missing; '#' and '*...' need quotes")
        return [value.text("a binding key or a list of them (numbers need quotes)")]

    def bind_line(self, node: Node, ends: str, keys: list[str]) -> None:
        source, arrow, destination = (part.strip() for part in ends.partition(" -> "))
        if not arrow or not source or not destination:
            raise node.expected(
                "'SOURCE -> DESTINATION', 'SOURCE -> DESTINATION: KEY' or a mapping with source,"
                " destination, destination_type, routing_key, arguments, vhost"
            )
        here = (self.default_vhost, destination)
        if here in self.queue_names and here in self.exchange_names:
            raise node.error(
                f"'{destination}' is a queue and an exchange: use the long form, with"
                " destination_type"
            )
        kind: Literal["queue", "exchange"] = "exchange" if self.is_exchange(*here) else "queue"
        for key in keys:
            self.add_binding(
                BindingEntry(node, self.default_vhost, source, destination, kind, key, {})
            )

    def bind(self, node: Node) -> None:
        required = ("source", "destination")
        known = (*required, "destination_type", "routing_key", "arguments", "vhost")
        fields = node.mapping((*known, "properties_key"), required)
        vhost = self.vhost(fields)
        word = fields["destination_type"].text() if "destination_type" in fields else "queue"
        if word not in ("queue", "exchange"):
            raise fields["destination_type"].expected("queue or exchange")
        self.add_binding(
            BindingEntry(
                node,
                vhost,
                fields["source"].text("the name of an exchange"),
                fields["destination"].text(f"the name of {word}"),
                "exchange" if word == "exchange" else "queue",
                fields["routing_key"].short_text("a key") if "routing_key" in fields else "",
                self.arguments(fields),
            )
        )

    def add_binding(self, binding: BindingEntry) -> None:
        if not self.is_exchange(binding.vhost, binding.source):
            self.missing(binding.node, "exchange", binding.vhost, binding.source)
        if binding.kind == "exchange":
            if not self.is_exchange(binding.vhost, binding.destination):
                self.missing(binding.node, "exchange", binding.vhost, binding.destination)
        elif (binding.vhost, binding.destination) not in self.queue_names:
            self.missing(binding.node, "queue", binding.vhost, binding.destination)
        if len(binding.routing_key.encode()) > 255:
            raise binding.node.error("a binding key of at most 255 bytes is allowed")
        self.definitions.bindings.append(binding)

    def is_exchange(self, vhost: str, name: str) -> bool:
        predeclared = name in dict(PREDECLARED) or name == TRACE
        return predeclared or (vhost, name) in self.exchange_names

    def missing(self, node: Node, kind: str, vhost: str, name: str) -> None:
        known = self.queue_names if kind == "queue" else self.exchange_names
        here = {other for where, other in known if where == vhost}
        hint = f"; {nearest(name, here)}" if here else ""
        raise node.error(f"no {kind} '{name}' in vhost '{vhost}' in this file{hint}")

    def note(self, node: Node, text: str) -> None:
        self.definitions.notes.append(f"{node.place}: {text}")


def _names(node: Node | None) -> Collection[str]:
    return node.content if node is not None and isinstance(node.content, dict) else ()
