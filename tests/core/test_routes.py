"""Routes: what is remembered, and when it is void."""

import pytest

from leveret.broker.core import routes as routes_module
from leveret.broker.core.routes import ByHeaders
from leveret.broker.core.users import Permissions
from leveret.protocol.content import Envelope
from leveret.protocol.methods import BasicPublish


@pytest.fixture
def vhost(broker):
    return broker.vhosts["/"]


@pytest.fixture
def routes(broker, vhost):
    """The routes of guest, with one remembered."""
    made = broker.routes(vhost, "guest")
    made.current()[envelope()] = ()
    return made


def envelope(key="k"):
    return Envelope(BasicPublish("", key), 1, b"")


def test_what_is_remembered_stays_while_nothing_changes(routes):
    assert 1 == len(routes.current())


@pytest.mark.parametrize(
    "change",
    [
        lambda broker, vhost: vhost.declare_queue("new"),
        lambda broker, vhost: vhost.declare_exchange("new", "topic"),
        lambda broker, vhost: vhost.bind("amq.topic", vhost.queue("old"), "k", {}),
        lambda broker, vhost: vhost.unbind("amq.fanout", vhost.queue("old"), "k", {}),
        lambda broker, vhost: vhost.delete_queue(vhost.queue("old")),
        lambda broker, vhost: vhost.delete_exchange("other"),
        lambda broker, vhost: broker.users.set_permissions("guest", "/", Permissions("", "", "")),
    ],
)
def test_a_change_of_topology_or_permissions_voids_it(broker, vhost, change):
    queue = vhost.declare_queue("old")
    vhost.declare_exchange("other", "direct")
    vhost.bind("amq.fanout", queue, "k", {})
    routes = broker.routes(vhost, "guest")
    routes.current()[envelope()] = (queue,)

    change(broker, vhost)

    assert {} == routes.current()


def test_it_is_bounded(routes, monkeypatch):
    monkeypatch.setattr(routes_module, "MEMO_LIMIT", 3)
    for number in range(3):
        routes.current()[envelope(str(number))] = ()
    assert 4 == len(routes._by_envelope)

    assert {} == routes.current()


def test_a_user_has_one_in_each_virtual_host(broker, vhost):
    other = broker.add_vhost("other")

    assert broker.routes(vhost, "guest") is broker.routes(vhost, "guest")
    assert broker.routes(vhost, "guest") is not broker.routes(other, "guest")
    assert broker.routes(vhost, "guest") is not broker.routes(vhost, "somebody")


def by_headers(broker, vhost):
    return ByHeaders(broker.routes(vhost, "guest"), vhost.exchanges["amq.headers"], ("k",))


def octets(number):
    return b"%04d" % number


def test_where_headers_lead_is_remembered_while_some_come_again(broker, vhost, monkeypatch):
    monkeypatch.setattr(routes_module, "TABLES", 4)
    of = by_headers(broker, vhost)
    for number in range(4):
        of._remember(octets(number), ())
    of.hits = 4

    of._remember(octets(4), ())

    assert {octets(4): ()} == of.known
    assert 0 == of.hits


def test_headers_that_never_come_again_are_not_remembered(broker, vhost, monkeypatch):
    monkeypatch.setattr(routes_module, "TABLES", 4)
    of = by_headers(broker, vhost)
    for number in range(5):
        of._remember(octets(number), ())

    assert of.known is None
    of._remember(octets(6), ())
    assert of.known is None


def test_long_tables_are_not_remembered(broker, vhost):
    of = by_headers(broker, vhost)
    of._remember(bytes(routes_module.TABLE_OCTETS + 1), ())
    assert {} == of.known


def test_tables_count_against_the_bound_of_all(broker, vhost, monkeypatch):
    monkeypatch.setattr(routes_module, "MEMO_LIMIT", 3)
    routes, of = broker.routes(vhost, "guest"), by_headers(broker, vhost)
    routes.current()
    routes.by_message[envelope()] = of
    for number in range(3):
        of._remember(octets(number), ())

    routes.current()

    assert {} == routes.by_message
