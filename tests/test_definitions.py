"""Definitions: RabbitMQ's documents and the short forms, all or nothing, errors with places."""

import json
from pathlib import Path

import pytest

from leveret.broker import plugins
from leveret.broker.core.broker import Broker
from leveret.broker.core.users import hash_password
from leveret.broker.definitions import export, load, parse
from leveret.broker.document import DocumentError

DEPLOY = Path(__file__).parents[1] / "deploy"


# As RabbitMQ 3.13 writes it, with what this broker has no use for.
EXPORT = {
    "rabbit_version": "3.13.7",
    "rabbitmq_version": "3.13.7",
    "product_name": "RabbitMQ",
    "product_version": "3.13.7",
    "rabbitmq_definition_format": "cluster",
    "original_cluster_name": "rabbit@host",
    "explanation": "Definitions of cluster 'rabbit@host'",
    "users": [
        {
            "name": "app",
            "password_hash": hash_password("secret", b"salt"),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"],
            "limits": {},
        },
        {
            "name": "old",
            "password_hash": hash_password("s", b"salt", "rabbit_password_hashing_sha512"),
            "hashing_algorithm": "rabbit_password_hashing_sha512",
            "tags": "monitoring,policymaker",
        },
    ],
    "vhosts": [
        {"name": "/", "limits": [], "metadata": {"description": "Default", "tags": []}},
        {"name": "v", "limits": {"max-queues": 10}, "default_queue_type": "classic"},
    ],
    "permissions": [{"user": "app", "vhost": "v", "configure": ".*", "write": "^o", "read": ".*"}],
    "topic_permissions": [
        {"user": "app", "vhost": "v", "exchange": "t", "write": "^{username}", "read": ".*"}
    ],
    "parameters": [
        {
            "value": {
                "pattern": ".*",
                "definition": {"max-length": 5},
                "priority": 0,
                "apply-to": "queues",
            },
            "vhost": "v",
            "component": "operator_policy",
            "name": "cap",
        },
        {
            "value": {"uri": "amqp://other"},
            "vhost": "v",
            "component": "federation-upstream",
            "name": "up",
        },
    ],
    "global_parameters": [{"name": "cluster_name", "value": "rabbit@host"}],
    "policies": [
        {
            "vhost": "v",
            "name": "ttl",
            "pattern": "^q",
            "apply-to": "queues",
            "definition": {"message-ttl": 1000, "max-length": 9},
            "priority": 1,
        }
    ],
    "queues": [
        {
            "name": "q",
            "vhost": "v",
            "durable": True,
            "auto_delete": False,
            "type": "classic",
            "arguments": {},
        },
        {
            "name": "quorum",
            "vhost": "v",
            "durable": True,
            "auto_delete": False,
            "type": "quorum",
            "arguments": {"x-queue-type": "quorum"},
        },
    ],
    "exchanges": [
        {
            "name": "t",
            "vhost": "v",
            "type": "topic",
            "durable": True,
            "auto_delete": False,
            "internal": False,
            "arguments": {},
        }
    ],
    "bindings": [
        {
            "source": "t",
            "vhost": "v",
            "destination": "q",
            "destination_type": "queue",
            "routing_key": "a.#",
            "arguments": {"x": 1},
        },
        {
            "source": "amq.topic",
            "vhost": "v",
            "destination": "t",
            "destination_type": "exchange",
            "routing_key": "",
            "arguments": {},
        },
    ],
}

SHORT = """
vhosts: [/, v]
users:
  app:
    password: secret
    tags: [monitoring]
    permissions: {/: .*, v: {configure: "", write: a, read: b}}
exchanges:
  orders: topic
  plain:
  archive: {type: fanout, durable: false}
queues: [all, invoices, {name: elsewhere, vhost: v}]
bindings:
  - orders -> invoices: order.created.*
  - orders -> archive: [a, b.#]
  - archive -> all
  - "plain -> all: #"
  - {source: amq.match, destination: all, arguments: {x-match: any, kind: paper}}
policies:
  short: {pattern: ^inv, definition: {max-length: 3}}
"""


def new_broker() -> Broker:
    broker = Broker()
    broker.add_defaults()
    return broker


def applied(name: str, source: str) -> Broker:
    broker = new_broker()
    parse(name, source).apply(broker)
    return broker


def bindings_of(broker: Broker, vhost: str) -> set[tuple[str, str, str, str]]:
    return {
        (b.source, b.destination_kind, b.destination, b.routing_key)
        for b in broker.vhosts[vhost].bindings()
    }


def test_an_export_of_rabbitmq_loads_as_it_is():
    broker = applied("export.json", json.dumps(EXPORT))
    vhost = broker.vhosts["v"]

    assert {"q", "quorum"} == set(vhost.queues)
    assert {("t", "queue", "q", "a.#"), ("amq.topic", "exchange", "t", "")} == bindings_of(
        broker, "v"
    )
    assert {"message-ttl": 1000, "max-length": 5} == dict(vhost.queues["q"].policy)
    assert ({}, 10) == (dict(vhost.queues["q"].arguments), vhost.max_queues)
    assert ("monitoring", "policymaker") == broker.users["old"].tags
    assert broker.users.authenticate("app", "secret") is not None
    assert not broker.users.check_topic("app", "v", "t", "write", "other")


def test_what_has_no_effect_is_noted():
    notes = parse("export.json", json.dumps(EXPORT)).notes

    assert [
        "parameters[1]: the parameter 'federation-upstream' has no effect",
        "policies[0]: policy 'ttl': no effect: message-ttl, max-length",
        "parameters[0]: policy 'cap': no effect: max-length",
    ] == [note.removeprefix("export.json:1: ") for note in notes]


def test_short_forms():
    broker = applied("topology.yaml", SHORT)
    vhost = broker.vhosts["/"]

    assert {"all", "invoices"} == set(vhost.queues)
    assert ["topic", "direct", "fanout"] == [
        vhost.exchanges[name].type_name for name in ("orders", "plain", "archive")
    ]
    assert [True, False] == [vhost.exchanges[name].durable for name in ("plain", "archive")]
    assert {
        ("orders", "queue", "invoices", "order.created.*"),
        ("orders", "exchange", "archive", "a"),
        ("orders", "exchange", "archive", "b.#"),
        ("archive", "queue", "all", ""),
        ("plain", "queue", "all", "#"),
        ("amq.match", "queue", "all", ""),
    } == bindings_of(broker, "/")
    assert {"max-length": 3} == dict(vhost.queues["invoices"].policy)
    assert (".*", ".*", ".*") == tuple(broker.users.permissions["app", "/"])
    assert ("", "a", "b") == tuple(broker.users.permissions["app", "v"])
    assert ["elsewhere"] == list(broker.vhosts["v"].queues)


def sample():
    """Return a broker with all plugins, and with what the sample defines."""
    registry = plugins.load(are_others_wanted=False)
    broker = Broker(registry=registry)
    broker.add_defaults()
    load(DEPLOY / "topology.yaml", registry=registry).apply(broker)
    return broker


def test_the_sample_is_good():
    broker = sample()

    assert broker.users.authenticate("shop", "shop") is not None
    assert ("orders", "queue", "audit", "#") in bindings_of(broker, "/")


def test_the_long_and_short_forms_of_the_sample_come_back_as_an_export():
    first, second = sample(), sample()
    source = json.dumps(export(first))
    parse("export.json", source, registry=second.registry).apply(second)

    assert export(first) == export(second)


def test_applying_twice_changes_nothing():
    broker = new_broker()
    definitions = parse("topology.yaml", SHORT)
    definitions.apply(broker)
    before = export(broker)

    definitions.apply(broker)

    assert before == export(broker)


def test_anchors_and_merge_keys_work():
    source = """
queues:
  a: &common {durable: false, auto_delete: true}
  b: {<<: *common, auto_delete: false}
"""
    queues = applied("t.yaml", source).vhosts["/"].queues

    assert [(False, True), (False, False)] == [
        (queues[name].durable, queues[name].auto_delete) for name in "ab"
    ]


def test_an_empty_file_is_good():
    assert "nothing" == parse("t.yaml", "# later\n").summary()


BAD = [
    ("queue: [a]", ":1: queue: unknown key 'queue'; did you mean 'queues'?"),
    ("queues:\n- name: a\n  durabel: 1", ":3: queues[0].durabel: unknown key 'durabel'; did you"),
    ("queues:\n- name: a\n  durable: 1", ":3: queues[0].durable: expected true or false, found 1"),
    ("queues: 5", ":1: queues: expected a list of queues, or a mapping by name, found 5"),
    ("queues: [{durable: true}]", ":1: queues[0]: 'name' is missing"),
    ("queues: [12]", ":1: queues[0]: expected a name, or a mapping with name"),
    ("queues: ['']", "a name of 1 to 255 bytes"),
    ("queues:\n- a\n- {name: a, durable: false}", ":3: queues[1]: inequivalent arg 'durable'"),
    ("queues:\n- a\n- {name: a, durable: false}", "(see t.yaml:2: queues[0])"),
    (
        "queues: {a: {arguments: {x-message-ttl: soon}}}",
        "invalid arg 'x-message-ttl' for queue 'a'",
    ),
    ("queues: {a: {type: stream}}", "queues.a: invalid arg 'x-queue-type'"),
    ("queues: {a: {vhost: w}}", "queues.a.vhost: no virtual host 'w'"),
    ("exchanges: {a: topik}", "exchanges.a: unknown exchange type 'topik'; did you mean 'topic'?"),
    ("exchanges: {amq.mine: topic}", "names that begin with 'amq.' are reserved"),
    ("exchanges: {amq.topic: direct}", "inequivalent arg 'type' for exchange 'amq.topic'"),
    ("exchanges: {a: [topic]}", "exchanges.a: expected a mapping with"),
    ("bindings: [amq.topic -> q]", "bindings[0]: no queue 'q' in vhost '/' in this file"),
    ("queues: [q]\nbindings: [x -> q]", ":2: bindings[0]: no exchange 'x' in vhost '/'"),
    ("queues: [orders]\nbindings: ['amq.topic -> order']", "did you mean 'orders'?"),
    ("queues: [q]\nbindings: [amq.topic to q]", "expected 'SOURCE -> DESTINATION'"),
    (
        "queues: [q]\nbindings:\n- amq.topic -> q: #",
        ":3: bindings[0].amq.topic -> q: the binding k",
    ),
    ("queues: [q]\nbindings:\n- amq.topic -> q: *.a", ":3: not YAML"),
    ("queues: [q]\nbindings:\n- amq.topic -> q: *.a", "'*' needs quotes"),
    ("queues: [q]\nbindings:\n- amq.topic -> q: 5", "numbers need quotes"),
    ("queues: [q]\nexchanges: [q]\nbindings: [amq.topic -> q]", "is a queue and an exchange"),
    (
        "queues: [q]\nbindings: [{source: amq.topic, destination: q, destination_type: x}]",
        "expected queue or exchange",
    ),
    (
        "queues: [q]\nbindings: [{source: amq.match, destination: q, arguments: {x-match: some}}]",
        "bindings[0]: Invalid x-match field value",
    ),
    ("users: {a: {}}", "users.a: user 'a' needs a password or a password_hash"),
    ("users: {a: {password: 5}}", "users.a.password: expected a text, found 5"),
    ("users: {a: {password_hash: '?'}}", "users.a: user 'a': password_hash is not base64"),
    (
        "users: {a: {password: a, permissions: {/: '('}}}",
        "users.a.permissions./: pattern '(' is not",
    ),
    ("users: {a: {password: a, permissions: {/: '^(a+)+$'}}}", "could take too long"),
    ("permissions: [{user: b, configure: '', write: '', read: ''}]", "permissions[0]: no user 'b'"),
    ("permissions: [{user: guest, configure: ''}]", "permissions[0]: 'write' is missing"),
    ("policies: {p: {pattern: a}}", "policies.p: policy 'p' needs 'definition'"),
    (
        "policies: {p: {pattern: a, definition: {max-lengt: 1}}}",
        "policies.p.definition.max-lengt: unknown setting 'max-lengt'; did you mean 'max-length'?",
    ),
    (
        "policies: {p: {pattern: a, definition: {max-length: x}}}",
        "expected an integer from 0, found 'x'",
    ),
    (
        "policies: {p: {pattern: a, apply-to: q, definition: {max-length: 1}}}",
        "expected one of all",
    ),
    (
        "policies: {p: {pattern: '[', definition: {max-length: 1}}}",
        "policies.p.pattern: pattern '['",
    ),
    ("queues: [a", "not YAML"),
    ("queues: {a: , a: }", "the key 'a' is there twice"),
    ("queues: &a [*a]", "nested more than 64 levels deep"),
    ("? [a]\n: b", "a key must be a text"),
    ("[" * 3000, ""),
    (
        "queues:\n- {name: a, durable: !!int ''}",
        "t.yaml:2: queues[0].durable: '' is not an integer",
    ),
    ("queues: {a: !!float ''}", "t.yaml:1: queues.a: '' is not a number"),
    ("queues: {a: !!bool abc}", "t.yaml:1: queues.a: 'abc' is not true or false"),
    ("queues: {a: !!int abc}", "t.yaml:1: queues.a: 'abc' is not an integer"),
    ("queues: {a: !!binary abc}", "t.yaml:1: the tag 'tag:yaml.org,2002:binary'"),
    ("queues: &a\n  <<: *a\n  b: {}", "t.yaml:2: queues: nested more than 64 levels deep"),
    ("queues: &a {<<: [*a, *a], b: {}}", "t.yaml:1: queues: nested more than 64 levels deep"),
    ("queues: {<<: 5}", "t.yaml:1: queues: '<<' takes over mappings only"),
    ('queues: {"a\\nb": 5}', "t.yaml:1: queues.a\\nb: expected a mapping"),
    ("queues: ['\ud800']", "t.yaml"),
    ('queues: ["\\ud800"]', "t.yaml"),
]


@pytest.mark.parametrize(("source", "expected"), BAD)
def test_errors_name_the_place_and_what_is_allowed(source: str, expected: str):
    with pytest.raises(DocumentError) as caught:
        parse("t.yaml", source)

    assert str(caught.value).startswith("t.yaml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


LONG = {
    "digits": "queues: {a: %s}" % ("9" * 5000),
    "hexadecimal": "queues: 0x%s" % ("f" * 50_000),
    "base 60": "queues: {a: 1%s}" % (":59" * 5000),
    "float": "queues: {a: 1.%s}" % ("0" * 5000),
    "pattern": "policies: {p: {pattern: '%s', definition: {}}}" % ("(" * 1500 + ")" * 1500),
    "pattern with spaces": "policies: {p: {pattern: '(%s', definition: {}}}" % ("a " * 1500),
    "key": "queue%s: 1" % ("s" * 900),
    "name": "queues: {a%s: 1}" % ("a" * 900),
    "text": "queues: {a: %s}" % ("a" * 5000),
    "tag": "queues: !%s a" % ("a" * 500),
    "path": "queues: {a: " + "{aaaaaaaaaa: " * 60 + "!!int ''" + "}" * 61,
}


@pytest.mark.parametrize("what", LONG)
def test_errors_can_be_read_however_much_is_wrong(what: str):
    with pytest.raises(DocumentError, match=r"^t\.yaml:1: ") as caught:
        parse("t.yaml", LONG[what])

    assert len(str(caught.value)) < 1000
    assert "..." in str(caught.value)


def test_errors_show_both_ends_of_what_is_long():
    source = "policies: {p: {pattern: '%s', definition: {}}}" % ("(" * 1500 + ")" * 1500)

    with pytest.raises(DocumentError, match=r"pattern '\(+\.\.\.\)+' is not a regular expression"):
        parse("t.yaml", source)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1" * 5000, "queues[1].name: '111"),
        ("1." + "0" * 5000, "queues[1].name: '1.0"),
        ('"\\ud800"', "queues[1].name: '\\ud800' is not a text"),
        ('"\\ud83d\\ude00", "durable": 1', "queues[1].durable: expected true or false"),
        ('"a", "\\udfff": 1', "queues[1]: '\\udfff' is not a text"),
        ('"a\\n", "durable": "\\n"', "queues[1].durable: expected true or false, found '\\n'"),
    ],
)
def test_what_a_value_in_json_cannot_be_is_named_with_its_line(value: str, expected: str):
    source = '{"queues": [\n{"name": "\\ud83d\\ude00"},\n{"name": ' + value + "}]}"

    with pytest.raises(DocumentError) as caught:
        parse("t.json", source)

    assert str(caught.value).startswith(f"t.json:3: {expected}")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()


def test_errors_in_json_name_the_line_too():
    source = '{\n "queues": [\n  {"name": "a"},\n  {"name": "b", "durable": 1}\n ]\n}'

    with pytest.raises(DocumentError) as caught:
        parse("t.json", source)

    assert "t.json:4: queues[1].durable: expected true or false, found 1" == str(caught.value)


@pytest.mark.parametrize("source", ["{", '{"queues": [}', '{"a": 1, "a": 2}', "[" * 100_000, "NaN"])
def test_what_is_no_json_is_refused(source: str):
    with pytest.raises(DocumentError, match=r"^t\.json"):
        parse("t.json", source)


def test_aliases_cannot_make_a_small_file_large():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(DocumentError, match="aliases stand for more"):
        parse("t.yaml", "\n".join(lines))


@pytest.mark.parametrize(
    ("existing", "source"),
    [
        ("queue", "queues: [new, {name: it, durable: false}]"),
        ("queue", "queues: {it: {arguments: {x-max-length: 1}}}"),
        ("exchange", "users: {new: {password: x}}\nexchanges: {it: topic}"),
    ],
)
def test_what_exists_and_differs_is_refused_before_anything_changes(existing: str, source: str):
    broker = new_broker()
    vhost = broker.vhosts["/"]
    if existing == "queue":
        vhost.declare_queue("it", durable=True)
    else:
        vhost.declare_exchange("it", "direct", durable=True)
    before = export(broker)

    with pytest.raises(DocumentError, match=r"inequivalent arg .* 'it' .*it exists already"):
        parse("t.yaml", source).apply(broker)

    assert before == export(broker)


@pytest.mark.parametrize(
    ("vhosts", "place", "most"),
    [
        ("[]", "queues[3]: cannot declare queue 'b'", 3),
        ("[{name: /, limits: {max-queues: 4}}]", "queues[4]: cannot declare queue 'c'", 4),
        ("[{name: /, limits: {max-queues: 1}}]", "queues[3]: cannot declare queue 'b'", 3),
    ],
)
def test_more_queues_than_a_limit_allows_are_refused_before_anything_changes(
    vhosts: str, place: str, most: int
):
    broker = new_broker()
    vhost = broker.vhosts["/"]
    vhost.declare_queue("it", durable=True)
    vhost.declare_queue("other", durable=True)
    vhost.max_queues = 3
    before = export(broker)
    source = f"vhosts: {vhosts}\nusers: {{new: {{password: x}}}}\nqueues: [it, a, a, b, c]"

    with pytest.raises(DocumentError) as caught:
        parse("t.yaml", source).apply(broker)

    reason = f"queue limit in vhost '/' ({most}): there are 2, the file adds 3"
    assert f"t.yaml:3: {place}: {reason}" == str(caught.value)
    assert before == export(broker)


def test_as_many_queues_as_a_limit_allows_are_added():
    broker = new_broker()
    vhost = broker.vhosts["/"]
    vhost.declare_queue("it", durable=True)
    vhost.max_queues = 3

    parse("t.yaml", "vhosts: [{name: /, limits: {max-queues: 1}}]\nqueues: [it, a, a, b]").apply(
        broker
    )
    parse("t.yaml", "queues: [it, a]").apply(broker)

    assert (1, ["it", "a", "b"]) == (vhost.max_queues, list(vhost.queues))


def test_transient_and_exclusive_things_are_not_exported():
    broker = new_broker()
    vhost = broker.vhosts["/"]
    vhost.declare_exchange("e", "fanout", durable=True)
    for name, durable in (("kept", True), ("gone", False)):
        vhost.bind("e", vhost.declare_queue(name, durable=durable), "")
    vhost.bind("e", vhost.declare_queue("own", owner=object()), "")

    document = export(broker)

    assert ["kept"] == [queue["name"] for queue in document["queues"]]
    assert ["kept"] == [binding["destination"] for binding in document["bindings"]]


def test_a_missing_file_is_named():
    with pytest.raises(DocumentError, match=r"^/nowhere/t.yaml: No such file"):
        load("/nowhere/t.yaml")


def test_a_bad_argument_is_told_what_it_may_be():
    source = "queues:\n  - name: q\n    arguments: {x-message-ttl: -1}\n"

    with pytest.raises(
        DocumentError, match=r"\{value_negative,-1\}; it must be an integer from 0 to"
    ):
        parse("t.yaml", source)


def test_a_bad_argument_is_named_where_it_stands():
    source = "queues:\n  - name: q\n    arguments:\n      x-message-ttl: soon\n"

    with pytest.raises(DocumentError, match=r"^t\.yaml:4: queues\[0\]\.arguments\.x-message-ttl: "):
        parse("t.yaml", source)
