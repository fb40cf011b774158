"""What users may configure, write and read.

"clerk" may do everything with names that have ".mine" in them, "reader" only read, "writer" only
write (the default exchange excepted); "courier" has topic permissions on amq.topic.
"""

from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    ConfirmSelect,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    ExchangeUnbind,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    QueueUnbind,
)

from .conversation import conversation, differs, reworded


def _names(permission: str):
    return reworded(
        "the text says which permission is missing, as since 3.12",
        ("access to", f"{permission} access to"),
    )


CONFIGURE, WRITE, READ = map(_names, ("configure", "write", "read"))


def _as(talk, user):
    return talk.channel(user=user, password=user)


def _prepared(talk):
    """Return a channel of the owner of queues and exchanges "mine" and "yours"."""
    owner = talk.channel()
    for name in talk.names("mine yours"):
        owner(QueueDeclare(name))
        owner(ExchangeDeclare(name, "fanout"))
    return owner


QUEUE = {
    "declare": QueueDeclare,
    "passive": lambda name: QueueDeclare(name, passive=True),
    "delete": QueueDelete,
    "purge": QueuePurge,
    "get": BasicGet,
    "consume": lambda name: BasicConsume(name, "tag"),
    "exchange_declare": lambda name: ExchangeDeclare(name, "fanout"),
    "exchange_passive": lambda name: ExchangeDeclare(name, passive=True),
    "exchange_delete": ExchangeDelete,
}


CONFIGURED = dict.fromkeys(("declare", "delete", "exchange_declare", "exchange_delete"), CONFIGURE)
CHECKED = {**CONFIGURED, **dict.fromkeys(("purge", "get", "consume"), READ)}


@conversation(each=QUEUE)
def clerk_and_what_is_mine(talk, make):
    _prepared(talk)
    _as(talk, "clerk")(make(talk.name("mine")))


@conversation(each=QUEUE, unless=CHECKED)
def clerk_and_what_is_yours(talk, make):
    _prepared(talk)
    _as(talk, "clerk")(make(talk.name("yours")))


@conversation(each=QUEUE, unless=CHECKED)
def clerk_and_what_is_missing(talk, make):
    _as(talk, "clerk")(make(talk.name("yours")))


@conversation(each=QUEUE, unless=CONFIGURED)
def reader_and_a_name(talk, make):
    _prepared(talk)
    _as(talk, "reader")(make(talk.name("mine")))


@conversation(each=QUEUE, unless=CHECKED)
def writer_and_a_name(talk, make):
    _prepared(talk)
    _as(talk, "writer")(make(talk.name("mine")))


PAIRS = {
    "mine_mine": ("mine", "mine"),
    "mine_yours": ("mine", "yours"),
    "yours_mine": ("yours", "mine"),
    "yours_yours": ("yours", "yours"),
}


REFUSED_PAIRS = {"mine_yours": READ, "yours_mine": WRITE, "yours_yours": WRITE}


@conversation(each=PAIRS, unless=REFUSED_PAIRS)
def clerk_binds_a_queue(talk, queue, exchange):
    _prepared(talk)
    _as(talk, "clerk")(QueueBind(talk.name(queue), talk.name(exchange)))


@conversation(each=PAIRS, unless=REFUSED_PAIRS)
def clerk_unbinds_a_queue(talk, queue, exchange):
    _prepared(talk)
    _as(talk, "clerk")(QueueUnbind(talk.name(queue), talk.name(exchange)))


@conversation(each=PAIRS, unless=REFUSED_PAIRS)
def clerk_binds_an_exchange(talk, destination, source):
    _prepared(talk)
    _as(talk, "clerk")(ExchangeBind(talk.name(destination), talk.name(source)))


@conversation(each=PAIRS, unless=REFUSED_PAIRS)
def clerk_unbinds_an_exchange(talk, destination, source):
    _prepared(talk)
    _as(talk, "clerk")(ExchangeUnbind(talk.name(destination), talk.name(source)))


@conversation(unless=WRITE)
def clerk_binds_what_is_missing(talk):
    _as(talk, "clerk")(QueueBind(talk.name("yours"), talk.name("yours too")))


@conversation(
    each={"mine": "mine", "yours": "yours", "missing": "not there"},
    unless={"yours": WRITE, "missing": WRITE},
)
def clerk_publishes(talk, name):
    _prepared(talk)
    clerk = _as(talk, "clerk")
    clerk.publish(talk.name(name), "", b"x", mandatory=True)
    clerk.hear()


@conversation
def clerk_publishes_to_the_default_exchange(talk):
    clerk = _as(talk, "clerk")
    clerk.publish("", "nowhere", b"x", mandatory=True)
    clerk.hear()


@conversation(unless=WRITE)
def writer_may_not_use_the_default_exchange(talk):
    writer = _as(talk, "writer")
    writer.publish("", "nowhere", b"x", mandatory=True)
    writer.quiet()


@conversation(unless=WRITE)
def permission_is_checked_before_existence(talk):
    reader = _as(talk, "reader")
    reader.publish(talk.x, "", b"x")
    reader.quiet()


@conversation(unless=CONFIGURE)
def queue_named_by_the_server_needs_permission_too(talk):
    _as(talk, "clerk")(QueueDeclare(exclusive=True))


@conversation
def reserved_name_is_told_before_permission(talk):
    _as(talk, "clerk")(QueueDeclare("amq.yours"))


@conversation(each={"mine": "mine.other", "yours": "yours.other"}, unless={"yours": WRITE})
def alternate_exchange_needs_permissions(talk, other):
    clerk = _as(talk, "clerk")
    arguments = {"alternate-exchange": talk.name(other)}
    clerk(ExchangeDeclare(talk.name("mine"), arguments=arguments))


@conversation(each={"mine": "mine.other", "yours": "yours.other"}, unless={"yours": WRITE})
def dead_letter_exchange_needs_permissions(talk, other):
    clerk = _as(talk, "clerk")
    arguments = {"x-dead-letter-exchange": talk.name(other)}
    clerk(QueueDeclare(talk.name("mine"), exclusive=True, arguments=arguments))


@conversation
def reply_to_needs_no_permission(talk):
    reader = _as(talk, "reader")
    reader(BasicConsume("amq.rabbitmq.reply-to", "tag", no_ack=True))
    writer = _as(talk, "writer")
    writer(BasicConsume("amq.rabbitmq.reply-to", "tag", no_ack=True))


@conversation(
    each={"own": "own.key", "other": "other.key", "empty": ""},
    unless={"other": WRITE, "empty": WRITE},
)
def topic_permission_to_write(talk, key):
    courier = _as(talk, "courier")
    courier(ConfirmSelect())
    courier.publish("amq.topic", key, b"x")
    courier.hear_confirms(1)


@conversation(
    each={"own": "own.key", "pattern": "own.#", "other": "other.key", "all": "#"},
    unless={"other": READ, "all": READ},
)
def topic_permission_to_read(talk, key):
    courier = _as(talk, "courier")
    courier(QueueDeclare(talk.q, exclusive=True))
    courier(QueueBind(talk.q, "amq.topic", key))


@conversation(unless=READ)
def topic_permission_is_needed_to_unbind(talk):
    courier = _as(talk, "courier")
    courier(QueueDeclare(talk.q, exclusive=True))
    courier(QueueUnbind(talk.q, "amq.topic", "other.key"))


@conversation(
    unless=differs(
        "the keys of copies are checked, too, as in 3.13",
        "a1 < confirm.select-ok",
        "a1 < channel.close 403 \"ACCESS_REFUSED - write access to topic 'other.key' in exchange"
        " 'amq.topic' in vhost '/' refused for user 'courier'\" at basic.publish",
        "a1 < confirms []",
    )
)
def topic_permission_of_copies(talk):
    courier = _as(talk, "courier")
    courier(ConfirmSelect())
    courier.publish("amq.topic", "own.key", b"x", headers={"CC": ["other.key"]})
    courier.hear_confirms(1)


@conversation
def topic_permissions_concern_their_exchange_only(talk):
    courier = _as(talk, "courier")
    courier(ExchangeDeclare(talk.x, "topic"))
    courier.publish(talk.x, "other.key", b"x", mandatory=True)
    courier.hear()


@conversation(unless=READ)
def topic_permission_is_needed_to_bind_an_exchange(talk):
    courier = _as(talk, "courier")
    courier(ExchangeDeclare(talk.x, "fanout"))
    courier(ExchangeBind(talk.x, "amq.topic", "own.key"))
    courier(ExchangeBind(talk.x, "amq.topic", "other.key"))


@conversation(unless=WRITE)
def user_id_is_checked_after_permission(talk):
    reader = _as(talk, "reader")
    reader.publish("amq.direct", "", b"x", user_id="guest")
    reader.quiet()
