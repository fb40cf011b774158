"""Lookups: the resources that only look: explain a publish, peek into a queue.

Law: they change nothing. Whoever may read a queue may look into it; what others may do is told to
administrators and monitors only.

Called by: whoever serves HTTP (ROUTES); plugins with resources (queue_of, exchange_of,
filter_of).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.core import inspect
from leveret.broker.core.filter import Filter
from leveret.broker.core.resources import (
    Answer,
    Fields,
    Pending,
    Refused,
    Request,
    Response,
    Route,
    answering,
    bad_field,
    forbidden,
    not_found,
)
from leveret.broker.core.sighting import EXCERPT
from leveret.protocol.properties import Properties

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.users import Permission
    from leveret.broker.core.vhost import VirtualHost

MOST_EXPLAINED = 1000  # exchanges, bindings and queues
MOST_SHOWN = 500  # messages of a page
LARGEST_EXCERPT = 64 << 10  # octets of a body
LATEST = (1 << 63) - 1  # seconds since 1970
WATCHERS = frozenset({"administrator", "monitoring"})

PUBLISH = ("vhost", "user", "exchange", "routing_key", "headers", "properties", "limit")
PAGE = ("state", "after", "limit", "body_limit")
FILTER = (
    "exchange",
    "routing_key",
    "message_id",
    "published_before",
    "published_after",
    "headers",
)


@answering
def explain_publish(request: Request, broker: Broker) -> Answer:
    """Answer what would become of a publish: ``vhost`` and ``exchange``, and what else it has.

    ``user`` is who publishes, by default who asks; ``properties`` may be any, of which expiration
    and user_id count.
    """
    from leveret.broker.core.explain import LIMIT, explain  # a start need not wait for it

    fields = Fields(request.query if request.body is None else request.body, PUBLISH)
    user = fields.text("user")
    if user is None:
        user = request.user
    if user != request.user and not _is_watcher(broker, request.user):
        raise forbidden(f"user '{request.user}' may not see what user '{user}' may do")
    limit = fields.integer("limit", 1, MOST_EXPLAINED)
    explanation = explain(
        broker,
        vhost=fields.required("vhost"),
        user=user,
        exchange=fields.required("exchange"),
        routing_key=fields.text("routing_key") or "",
        headers=fields.table("headers"),
        properties=_properties(fields),
        limit=LIMIT if limit is None else limit,
    )
    return Response(200, explanation.as_json())


def _is_watcher(broker: Broker, user: str) -> bool:
    return user in broker.users and not WATCHERS.isdisjoint(broker.users[user].tags)


def _properties(fields: Fields) -> Properties:
    given = fields.table("properties")
    if given is None:
        return Properties()
    table = Fields(given, Properties._fields)
    expiration, user_id = table.text("expiration"), table.text("user_id")
    headers = table.table("headers")
    return Properties(expiration=expiration, user_id=user_id, headers=headers)  # type: ignore[arg-type]


@answering
def peek_messages(request: Request, broker: Broker) -> Answer:
    """Answer a page of a queue's messages; see `core.inspect.peek`, and `Filter` for which."""
    fields = Fields(request.query, PAGE + FILTER)
    queue = queue_of(request, broker, "read")
    limit = fields.integer("limit", 1, MOST_SHOWN)
    body_limit = fields.integer("body_limit", 0, LARGEST_EXCERPT)
    state = fields.text("state") or "ready"
    if state not in inspect.STATES:
        raise bad_field("state", state, f"one of {', '.join(inspect.STATES)}")
    wanted = filter_of(fields)
    after = fields.text("after") or ""
    size = EXCERPT if body_limit is None else body_limit
    answer = Pending()
    try:
        inspect.peek(
            queue,
            lambda page: answer.resolve(Response(200, page.as_json(size))),
            state=state,
            after=after,
            limit=inspect.LIMIT if limit is None else limit,
            wanted=wanted,
        )
    except ValueError:
        raise bad_field("after", after, "what a page has as next") from None
    return answer if answer.response is None else answer.response


def filter_of(fields: Fields) -> Filter | None:
    """Return what messages have to be like, None if nothing is said."""
    wanted = Filter(
        exchange=fields.text("exchange"),
        routing_key=fields.text("routing_key"),
        message_id=fields.text("message_id"),
        published_before=fields.integer("published_before", 0, LATEST),
        published_after=fields.integer("published_after", 0, LATEST),
        headers=fields.table("headers") or {},
    )
    return None if wanted == Filter() else wanted


def queue_of(request: Request, broker: Broker, permission: Permission) -> Queue:
    """Return the queue that a path names, on which the user must have a permission.

    Raises:
      Refused: The user has none, or there is no such queue.
    """
    vhost = _vhost_of(request, broker, permission, "queue")
    queue = None if vhost is None else vhost.queues.get(request.params["name"])
    if queue is None:
        raise _none("queue", request)
    return queue


def exchange_of(request: Request, broker: Broker, permission: Permission) -> Exchange:
    """Return the exchange that a path names, on which the user must have a permission.

    Raises:
      Refused: The user has none, or there is no such exchange.
    """
    vhost = _vhost_of(request, broker, permission, "exchange")
    exchange = None if vhost is None else vhost.exchanges.get(request.params["name"])
    if exchange is None:
        raise _none("exchange", request)
    return exchange


def _vhost_of(
    request: Request, broker: Broker, permission: Permission, kind: str
) -> VirtualHost | None:
    """Return the virtual host that a path names, if the user may see what is there."""
    vhost, name = request.params["vhost"], request.params["name"]
    # who may not know is told the same, whether it is there or not
    if not broker.users.check(request.user, vhost, permission, name):
        raise forbidden(f"user '{request.user}' may not {permission} {kind} '{name}' in '{vhost}'")
    return broker.vhosts.get(vhost)


def _none(kind: str, request: Request) -> Refused:
    return not_found(f"no {kind} '{request.params['name']}' in vhost '{request.params['vhost']}'")


ROUTES = (
    Route("GET", "/api/leveret/explain", explain_publish, "management"),
    Route("POST", "/api/leveret/explain", explain_publish, "management"),
    Route("GET", "/api/leveret/queues/{vhost}/{name}/messages", peek_messages, "management"),
)
