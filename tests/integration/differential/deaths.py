"""The headers of dead letters: deaths, first deaths, keys; and the letters that go in circles."""

from leveret.protocol.methods import (
    BasicCancel,
    BasicConsume,
    BasicReject,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
)
from leveret.protocol.table import Int64, Timestamp

from .conversation import conversation, differs, reworded
from .letters import DLX, DLX_KEY, elapse, listening, to

TTL = "x-message-ttl"
DROP = {"requeue": False}


def _reject(channel, count=1):
    """Hear the next message, which the channel's consumer gets, and reject it."""
    for _ in range(count):
        for event in channel.hear():
            channel(BasicReject(event.method.delivery_tag, **DROP))


# Routing keys: without a key for dead letters all of the publisher's are used again.

COPIES = {
    "cc": {"CC": ["~cc"]},
    "bcc": {"BCC": ["~bcc"]},
    "cc_and_bcc": {"CC": ["~cc", "~nobody"], "BCC": ["~bcc"]},
    "empty_cc": {"CC": []},
}


@conversation(
    each={
        f"{headers}_{key}": (COPIES[headers], key)
        for headers in COPIES
        for key in ("same_keys", "new_key")
    }
)
def letter_with_copies(talk, headers, key):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "direct"))
    arguments = {DLX: talk.x}
    if key == "new_key":
        a(QueueBind(talk.name("dead"), talk.x, "new"))
        arguments[DLX_KEY] = "new"
    for word in ("q", "cc", "bcc"):
        a(QueueBind(talk.name("dead"), talk.x, talk.name(word)))
    a(QueueDeclare(talk.q, arguments=arguments))
    a(BasicConsume(talk.q, "tag"))
    copies = {
        name: [word.replace("~", talk.name("")) for word in words]
        for name, words in headers.items()
    }
    a.publish("", talk.q, b"1", headers=copies)
    _reject(a)
    dead.hear()


@conversation
def copies_that_are_routed_one_by_one(talk):
    a = talk.channel()
    first, second = listening(talk, "first"), listening(talk, "second")
    a(ExchangeDeclare(talk.x, "direct"))
    for word in ("first", "second"):
        a(QueueBind(talk.name(word), talk.x, word))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x}))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.publish("amq.direct", talk.q, b"1", headers={"CC": ["first"], "BCC": ["second"]})
    _reject(a)
    first.hear()
    second.hear()


@conversation(each={"empty": "", "long": "k" * 255})
def key_of_dead_letters(talk, key):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueBind(talk.name("dead"), talk.x))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, DLX_KEY: key, TTL: 0}))
    a.publish("", talk.q, b"1")
    dead.hear()


@conversation
def death_names_the_exchange_of_the_publisher(talk):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "topic"))
    a(QueueDeclare(talk.q, arguments={TTL: 0, **to(talk.name("dead"))}))
    a(QueueBind(talk.q, talk.x, "#"))
    a.publish(talk.x, "some.key", b"1")
    dead.hear()


# Several deaths


@conversation
def two_queues_two_deaths(talk):
    a = talk.channel()
    dead = listening(talk)
    second = talk.name("second")
    a(QueueDeclare(second, arguments={"x-max-length": 0, **to(talk.name("dead"))}))
    a(QueueDeclare(talk.q, arguments={**to(second), TTL: 0}))
    a.publish("", talk.q, b"1", expiration="60000")
    dead.hear()


OF_Q = "count: Int64(1), exchange: '', queue: '~q', reason: 'rejected', routing-keys: ['~q']"
OF_BACK = "exchange: '', queue: '~back', reason: 'rejected', routing-keys: ['~back']"


@conversation(
    unless=reworded(
        "the newest death is first; RabbitMQ turns round those before it at each further one",
        *(
            (
                f"{{{OF_Q}, time: 'now'}}, {{count: Int64({count}), {OF_BACK}, time: 'now'}}",
                f"{{count: Int64({count}), {OF_BACK}, time: 'now'}}, {{{OF_Q}, time: 'now'}}",
            )
            for count in (1, 2)
        ),
    )
)
def two_reasons_of_one_queue(talk):
    a, b = talk.channel(), talk.channel()
    back = talk.name("back")
    a(QueueDeclare(talk.q, arguments={TTL: 20, **to(back)}))
    b(QueueDeclare(back, arguments=to(talk.q)))
    a(BasicConsume(talk.q, "tag"))
    b(BasicConsume(back, "back"))
    a.publish("", talk.q, b"1")
    _reject(a)
    a(BasicCancel("tag"))
    _reject(b, 2)
    b.hear()


@conversation
def same_death_again_is_counted(talk):
    a = talk.channel()
    b = talk.channel()
    second = talk.name("second")
    a(QueueDeclare(talk.q, arguments=to(second)))
    b(QueueDeclare(second, arguments=to(talk.q)))
    a(BasicConsume(talk.q, "first"))
    b(BasicConsume(second, "second"))
    a.publish("", talk.q, b"1")
    for _ in range(3):
        _reject(a)
        _reject(b)
    a.hear()


@conversation
def retry_by_waiting_in_another_queue(talk):
    a = talk.channel()
    wait = talk.name("wait")
    a(QueueDeclare(wait, arguments={TTL: 20, **to(talk.q)}))
    a(QueueDeclare(talk.q, arguments=to(wait)))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", expiration="60000")
    _reject(a, 3)
    a.hear()


# Circles: a letter that nobody rejected does not come to the same queue again.


@conversation(
    each={
        "expired": {TTL: 20},
        "expired_at_once": {TTL: 0},
        "maxlen": {"x-max-length": 0},
    }
)
def queue_that_sends_letters_to_itself(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={DLX: "", **arguments}))
    a.publish("", talk.q, b"1")
    elapse(talk, 100)
    a.count(talk.q, 0)
    a(BasicConsume(talk.q, "tag"))
    a.quiet()


@conversation
def rejected_letter_comes_back_to_its_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={DLX: ""}))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    _reject(a, 3)
    a.hear()


@conversation
def rejected_letter_expires_in_the_queue_it_came_back_to(talk):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, TTL: 20}))
    a(QueueBind(talk.q, talk.x))
    a(QueueBind(talk.name("dead"), talk.x))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1")
    a.hear()
    a(BasicCancel("tag"))
    a(BasicReject(1, **DROP))
    dead.hear(2)
    elapse(talk, 60)
    a.count(talk.q, 0)
    dead.quiet()


@conversation(each={"two": 2, "three": 3})
def circle_of_queues(talk, size):
    a = talk.channel()
    names = [talk.name(f"q{number}") for number in range(size)]
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        a(QueueDeclare(name, arguments={TTL: 10, **to(following)}))
    a.publish("", names[0], b"1")
    elapse(talk, 100)
    for name in names:
        a.count(name, 0)


@conversation(
    unless=differs(
        "between two visits of the queue somebody rejected; RabbitMQ does not see it as it turns"
        " older deaths round",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < queue.declare-ok queue='~second' message_count=0 consumer_count=0",
        "a1 < queue.declare-ok queue='~third' message_count=0 consumer_count=0",
        "a1 < basic.consume-ok consumer_tag='tag'",
        "a1 < basic.deliver consumer_tag='tag' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='~second' headers={x-death: [{count: Int64(1), exchange: '', queue: '~q',"
        " reason: 'expired', routing-keys: ['~q'], time: 'now'}], x-first-death-exchange: '',"
        " x-first-death-queue: '~q', x-first-death-reason: 'expired'} b'1'",
        "a1 < basic.deliver consumer_tag='tag' delivery_tag=2 redelivered=False exchange=''"
        " routing_key='~second' headers={x-death: [{count: Int64(2), exchange: '', queue: '~q',"
        " reason: 'expired', routing-keys: ['~q'], time: 'now'}, {count: Int64(1), exchange: '',"
        " queue: '~third', reason: 'expired', routing-keys: ['~third'], time: 'now'}, {count:"
        " Int64(1), exchange: '', queue: '~second', reason: 'rejected', routing-keys:"
        " ['~second'], time: 'now'}], x-first-death-exchange: '', x-first-death-queue: '~q',"
        " x-first-death-reason: 'expired'} b'1'",
    )
)
def circle_with_a_rejection_goes_on(talk):
    a = talk.channel()
    second, third = talk.names("second third")
    a(QueueDeclare(talk.q, arguments={TTL: 20, **to(second)}))
    a(QueueDeclare(second, arguments=to(third)))
    a(QueueDeclare(third, arguments={TTL: 20, **to(talk.q)}))
    a(BasicConsume(second, "tag"))
    a.publish("", talk.q, b"1")
    _reject(a)
    elapse(talk, 200)
    a.quiet()


@conversation
def only_the_queue_in_the_circle_is_left_out(talk):
    a = talk.channel()
    dead = listening(talk)
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueDeclare(talk.q, arguments={DLX: talk.x, TTL: 10}))
    a(QueueBind(talk.q, talk.x))
    a(QueueBind(talk.name("dead"), talk.x))
    a.publish("", talk.q, b"1")
    dead.hear()
    a.count(talk.q, 0)
    elapse(talk, 40)
    dead.quiet()


# Deaths that a publisher brings along

DEATH = {
    "count": Int64(5),
    "reason": "rejected",
    "queue": "another queue",
    "time": Timestamp(1_000_000),
    "exchange": "",
    "routing-keys": ["a key"],
}
BROUGHT = {
    "death": {"x-death": [DEATH]},
    "no_deaths": {"x-death": []},
    "text": {"x-death": "rejected"},
    "first_death": {
        "x-first-death-reason": "mine",
        "x-first-death-queue": "mine",
        "x-first-death-exchange": "mine",
    },
    "first_reason_alone": {"x-first-death-reason": "mine"},
    "original_expiration": {"original-expiration": "mine"},
}


FIRST = ", x-first-death-exchange: '', x-first-death-queue: '~q', x-first-death-reason: 'expired'"
OTHER = (
    ", {count: Int64(5), exchange: '', queue: 'another queue', reason: 'rejected',"
    " routing-keys: ['a key'], time: Timestamp(1000000)}"
)
IGNORED = "deaths that a publisher tells of are ignored, as in 4.x"


@conversation(
    each=BROUGHT,
    unless={
        "death": reworded(IGNORED, (f"'now'}}{OTHER}]", f"'now'}}]{FIRST}")),
        "no_deaths": reworded(IGNORED, ("'now'}]", f"'now'}}]{FIRST}")),
        "text": reworded(IGNORED, ("'now'}]", f"'now'}}]{FIRST}")),
    },
)
def deaths_of_the_publisher(talk, headers):
    a = talk.channel()
    dead = listening(talk)
    a(QueueDeclare(talk.q, arguments={TTL: 0, **to(talk.name("dead"))}))
    a.publish("", talk.q, b"1", headers=headers)
    dead.hear()


@conversation(unless=reworded(IGNORED, ("count: Int64(2)", "count: Int64(1)")))
def deaths_of_a_publisher_who_moves_a_letter(talk):
    a = talk.channel()
    dead = listening(talk)
    a(QueueDeclare(talk.q, arguments={TTL: 0, **to(talk.name("dead"))}))
    a.publish("", talk.q, b"1")
    letter = dead.hear()[0]
    a.publish("", talk.q, b"again", headers=letter.properties.headers)
    dead.hear()
