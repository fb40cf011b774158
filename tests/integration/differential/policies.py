"""Policies of queues and operator policies: alone, together, and beside arguments.

The policies are in `definitions`; a queue gets one by a word in its name.
"""

from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    BasicReject,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)

from .conversation import conversation
from .letters import DLX, DLX_KEY, elapse, listening, take_stock, to

TTL, LENGTH = "x-message-ttl", "x-max-length"


def _named(talk, words, durable=False, **arguments):
    """Return a channel of a queue called `words`, its name, and one that hears of its deaths."""
    a = talk.channel()
    dead = listening(talk)
    queue = talk.name(words)
    a(QueueDeclare(queue, durable=durable, arguments={**to(talk.name("dead")), **arguments}))
    return a, queue, dead


def _publish(channel, queue, count=1, **properties):
    for number in range(1, count + 1):
        channel.publish("", queue, str(number).encode(), **properties)


EXPIRE = {
    "policy": ("fleeting", {}, None),
    "policy_is_shorter": ("fleeting", {TTL: 60_000}, None),
    "argument_is_shorter": ("lasting", {TTL: 20}, None),
    "message_is_shorter": ("lasting", {}, "20"),
    "policy_is_shorter_than_message": ("fleeting", {}, "60000"),
    "operator": ("watched", {}, None),
    "operator_is_shorter_than_policy": ("watched+lasting", {}, None),
    "operator_is_shorter_than_argument": ("watched", {TTL: 60_000}, None),
    "policy_is_shorter_than_operator": ("lenient+fleeting", {}, None),
    "argument_is_shorter_than_operator": ("lenient", {TTL: 20}, None),
}


@conversation(each=EXPIRE)
def shortest_life_wins(talk, words, arguments, expiration):
    a, queue, dead = _named(talk, words, **arguments)
    _publish(a, queue, expiration=expiration)
    dead.hear()
    a.count(queue, 0)


LIVE = {
    "lasting": "lasting",
    "lenient": "lenient",
    "both": "lenient+lasting",
    "of_exchanges": "of_exchanges",
    "outvoted": "elected",
}


@conversation(each=LIVE)
def policy_that_lets_live(talk, words):
    a, queue, dead = _named(talk, words)
    _publish(a, queue)
    elapse(talk, 80)
    a.count(queue, 1)
    dead.quiet()


LIMIT = {
    "policy": ("confined", {}),
    "policy_is_smaller": ("confined", {LENGTH: 3}),
    "argument_is_smaller": ("confined", {LENGTH: 1}),
    "argument_of_zero": ("confined", {LENGTH: 0}),
    "bytes": ("thin", {}),
    "bytes_are_fewer": ("thin", {"x-max-length-bytes": 100}),
    "argument_of_fewer_bytes": ("thin", {"x-max-length-bytes": 3}),
    "length_and_bytes": ("thin", {LENGTH: 3}),
    "policy_of_higher_priority": ("elected", {}),
    "policy_is_smaller_than_operator": ("lenient+confined", {}),
    "operator_is_smaller_than_argument": ("lenient", {LENGTH: 6}),
    "argument_is_smaller_than_operator": ("lenient", {LENGTH: 4}),
}


@conversation(each=LIMIT)
def smallest_limit_wins(talk, words, arguments):
    a, queue, dead = _named(talk, words, **arguments)
    a(ConfirmSelect())
    _publish(a, queue, 7)
    a.hear_confirms(7)
    take_stock(a, dead, queue, 7)


OVERFLOW = {
    "policy": ({}, 0),
    "argument_wins": ({"x-overflow": "drop-head"}, 2),
    "argument_wins_otherwise": ({"x-overflow": "reject-publish-dlx"}, 2),
    "limit_of_the_argument": ({LENGTH: 1}, 0),
}


@conversation(each=OVERFLOW)
def overflow_by_policy(talk, arguments, letters):
    a, queue, dead = _named(talk, "picky", **arguments)
    a(ConfirmSelect())
    for number in range(1, 5):
        a.publish("", queue, str(number).encode())
        a.hear_confirms(1)
    dead.hear(letters)
    a.drain(queue)
    dead.quiet()


@conversation(each={"argument": LENGTH, "bytes": "x-max-length-bytes"})
def overflow_of_the_argument_and_limit_of_the_policy(talk, name):
    a, queue, dead = _named(talk, "confined", **{"x-overflow": "reject-publish", name: 100})
    a(ConfirmSelect())
    for number in range(1, 5):
        a.publish("", queue, str(number).encode())
        a.hear_confirms(1)
    a.drain(queue)
    dead.quiet()


# Dead letters


@conversation
def dead_letter_exchange_by_policy(talk):
    a = talk.channel()
    dead = listening(talk)
    queue = talk.name("mourned")
    a(QueueBind(talk.name("dead"), "amq.direct", queue))
    a(QueueDeclare(queue))
    _publish(a, queue, 2)
    dead.hear()
    a(BasicGet(queue))
    a(BasicReject(1, requeue=False))
    dead.hear()


@conversation
def dead_letter_key_by_policy(talk):
    a = talk.channel()
    dead = listening(talk)
    queue = talk.name("renamed")
    a(QueueBind(talk.name("dead"), "amq.direct", "the key of a policy"))
    a(QueueDeclare(queue))
    _publish(a, queue)
    dead.hear()


BOTH = {
    "exchange": ("mourned", {}, 2),
    "exchange_and_key": ("mourned", {DLX_KEY: "other"}, 2),
    "exchange_beside_a_key": ("renamed", {}, 1),
    "exchange_and_key_beside_a_key": ("renamed", {DLX_KEY: "other"}, 1),
}


@conversation(each=BOTH)
def dead_letter_argument_wins(talk, words, arguments, count):
    a = talk.channel()
    dead, other = listening(talk), listening(talk, "other")
    queue = talk.name(words)
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueBind(talk.name("dead"), talk.x))
    a(QueueBind(talk.name("other"), "amq.direct", queue))
    a(QueueDeclare(queue, arguments={**arguments, DLX: talk.x}))
    _publish(a, queue, count)
    dead.hear()
    elapse(talk, 1)
    other.quiet()


# Queues that expire, deliveries that are limited


@conversation(
    each={
        "policy": ("vanishing", {}),
        "policy_is_shorter": ("vanishing", {"x-expires": 60_000}),
        "argument_is_shorter": ("vanishing", {"x-expires": 700}),
    }
)
def queue_that_expires_by_policy(talk, words, arguments):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout", auto_delete=True))
    a(QueueDeclare(talk.name(words), arguments=arguments))
    a(QueueBind(talk.name(words), talk.x))
    elapse(talk, 600)
    a.exchange_gone(talk.x)


@conversation(
    each={
        "policy": ({}, 2),
        "policy_is_smaller": ({"x-delivery-limit": 5}, 2),
        "argument_is_smaller": ({"x-delivery-limit": 0}, 1),
    }
)
def delivery_limit_by_policy(talk, arguments, deliveries):
    arguments = {"x-queue-type": "quorum", **arguments}
    a, queue, dead = _named(talk, "patient", durable=True, **arguments)
    a(BasicConsume(queue, "tag"))
    _publish(a, queue)
    for tag in range(1, deliveries + 1):
        a.hear()
        a(BasicReject(tag))
    dead.hear()


# What policies do not do


@conversation
def policy_is_no_argument(talk):
    a = talk.channel()
    queue = talk.name("lasting")
    a(QueueDeclare(queue))
    a(QueueDeclare(queue))
    a(QueueDeclare(queue, arguments={TTL: 60_000}))


@conversation(each={"exclusive": {"exclusive": True}, "auto_delete": {"auto_delete": True}})
def policy_of_any_queue(talk, options):
    a = talk.channel()
    queue = talk.name("confined")
    a(QueueDeclare(queue, **options))
    _publish(a, queue, 3)
    a.count(queue, 2)
    a.drain(queue)
