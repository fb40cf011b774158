"""Routes: what is remembered, and when it is void."""

import pytest

from leveret.broker.core import routes as routes_module
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
