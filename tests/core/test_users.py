"""Users: hashes, permissions, topic permissions, and the memo that is never stale."""

import pytest

from leveret.broker.core.events import Events
from leveret.broker.core.patterns import PatternError
from leveret.broker.core.users import (
    MAX_MEMO,
    Permissions,
    TopicPermissions,
    User,
    UserError,
    Users,
    hash_password,
)

ALL = Permissions(".*", ".*", ".*")


def users_with(*permissions: str) -> Users:
    users = Users()
    users.add("alice", "secret")
    users.set_permissions("alice", "/", Permissions(*permissions))
    return users


def test_hash_is_the_documented_salted_sha256():
    # The example of RabbitMQ's page on passwords: salt 908D C60A, password test12.
    salt = bytes.fromhex("908DC60A")

    assert hash_password("test12", salt) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_two_hashes_of_one_password_differ():
    assert hash_password("secret") != hash_password("secret")


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("alice", "secret", "alice"),
        ("alice", "Secret", None),
        ("alice", "", None),
        ("bob", "secret", None),
        ("", "", None),
        ("locked", "", None),
    ],
)
def test_authentication(name: str, password: str, expected: str | None):
    users = Users()
    users.add("alice", "secret")
    users.add("locked", "")

    user = users.authenticate(name, password)

    assert expected == (user.name if user else None)


@pytest.mark.parametrize("kind", ["sha256", "sha512", "md5"])
def test_imported_hashes_are_good_in_each_algorithm(kind: str):
    algorithm = f"rabbit_password_hashing_{kind}"
    users = Users()
    users.put(
        User("old", hash_password("pässword", b"salt", algorithm), algorithm, ("monitoring",))
    )

    user = users.authenticate("old", "pässword".encode())

    assert (user.tags if user else None) == ("monitoring",)
    assert users.authenticate("old", "password") is None


@pytest.mark.parametrize(
    ("password_hash", "algorithm", "text"),
    [
        ("?", "rabbit_password_hashing_sha256", "is not base64"),
        ("c2hvcnQ=", "rabbit_password_hashing_sha256", "has 5 bytes"),
        ("", "plain", "'plain' is not one of rabbit_password_hashing_sha256"),
    ],
)
def test_a_hash_that_cannot_match_is_refused(password_hash: str, algorithm: str, text: str):
    with pytest.raises(UserError, match=text):
        Users().put(User("old", password_hash, algorithm))


def test_adding_a_user_again_with_its_password_keeps_the_hash():
    users = Users()
    first = users.add("alice", "secret")

    again = users.add("alice", "secret", ["administrator"])

    assert (first.password_hash, ("administrator",)) == (again.password_hash, again.tags)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (".*", "anything", True),
        ("order", "my-orders", True),  # a search, not a match
        ("^order", "my-orders", False),
        ("", "orders", False),
        ("^$", "", False),  # the default exchange has a name here
        ("^amq[.]default$", "", True),
        ("^(a|b)$", "b", True),
    ],
)
def test_patterns_are_searched_for(pattern: str, name: str, expected: bool):
    users = users_with("", pattern, "")

    assert expected == users.check("alice", "/", "write", name)


def test_each_permission_has_its_own_pattern():
    users = users_with("^c", "^w", "^r")

    answers = {
        (permission, name): users.check("alice", "/", permission, name)
        for permission in ("configure", "write", "read")
        for name in ("c", "w", "r")
    }

    assert {("configure", "c"), ("write", "w"), ("read", "r")} == {
        question for question, answer in answers.items() if answer
    }


def test_no_row_means_no_access():
    users = users_with("", "", "")
    users.add("bob", "secret")

    answers = [users.may_access(user, vhost) for user in ("alice", "bob") for vhost in ("/", "v")]

    assert answers == [True, False, False, False]
    assert not users.check("bob", "/", "read", "orders")


def test_a_change_clears_the_memo_and_raises_the_epoch():
    users = users_with(".*", ".*", ".*")
    before = users.epoch
    assert users.check("alice", "/", "read", "orders")

    users.set_permissions("alice", "/", Permissions(".*", ".*", "^invoices$"))

    assert not users.check("alice", "/", "read", "orders")
    assert users.epoch > before


@pytest.mark.parametrize("change", ["clear", "delete", "vhost"])
def test_taking_permissions_back_works_at_once(change: str):
    users = users_with(".*", ".*", ".*")
    users.set_topic_permissions("alice", "/", "t", TopicPermissions("^a", "^a"))
    assert users.check("alice", "/", "read", "orders")

    match change:
        case "clear":
            users.clear_permissions("alice", "/")
        case "delete":
            users.delete("alice")
        case _:
            users.forget_vhost("/")

    assert not users.check("alice", "/", "read", "orders")
    assert not users.may_access("alice", "/")


def test_the_memo_is_bounded():
    users = users_with(".*", ".*", ".*")

    for number in range(MAX_MEMO + 10):
        users.check("alice", "/", "write", f"q{number}")

    assert len(users._memo) <= MAX_MEMO


def test_a_pattern_that_doubles_with_each_character_is_refused_by_name():
    users = users_with("", "", "")

    with pytest.raises(PatternError, match=r"pattern '\^\(a\+\)\+\$' could take too long"):
        users.set_permissions("alice", "/", Permissions("", "", "^(a+)+$"))

    assert Permissions("", "", "") == users.permissions["alice", "/"]


def test_permissions_of_a_missing_user_are_refused():
    with pytest.raises(UserError, match="no user 'bob'"):
        Users().set_permissions("bob", "/", ALL)


@pytest.mark.parametrize(
    ("exchange", "permission", "routing_key", "expected"),
    [
        ("orders", "write", "alice.created", True),
        ("orders", "write", "bob.created", False),
        ("orders", "read", "x", False),
        ("other", "write", "anything", True),  # no row: no limit
    ],
)
def test_topic_permissions_know_the_user_name(exchange, permission, routing_key, expected):
    users = users_with(".*", ".*", ".*")
    users.set_topic_permissions("alice", "/", "orders", TopicPermissions("^{username}[.]", "^y"))

    assert expected == users.check_topic("alice", "/", exchange, permission, routing_key)


def test_a_user_name_in_a_topic_pattern_is_literal():
    users = Users()
    users.add("a.c", "secret")
    users.set_topic_permissions("a.c", "/", "t", TopicPermissions("^{username}$", ""))

    assert users.check_topic("a.c", "/", "t", "write", "a.c")
    assert not users.check_topic("a.c", "/", "t", "write", "abc")


def test_clearing_topic_permissions_lifts_the_limit():
    users = users_with(".*", ".*", ".*")
    users.set_topic_permissions("alice", "/", "t", TopicPermissions("^a", ""))
    assert not users.check_topic("alice", "/", "t", "write", "b")

    users.clear_topic_permissions("alice", "/", "t")

    assert users.check_topic("alice", "/", "t", "write", "b")
    assert dict(users.topic_permissions) == {}


@pytest.mark.parametrize(
    ("name", "loopback", "expected"),
    [("guest", True, True), ("guest", False, False), ("alice", False, True)],
)
def test_guest_comes_from_loopback_only(name: str, loopback: bool, expected: bool):
    assert expected == Users().may_connect_from(name, loopback=loopback)


def test_each_change_is_told_once_and_no_change_is_not():
    events, told = Events(), []
    for name in ("user", "permissions", "topic_permissions"):
        for what in (f"{name}.changed", f"{name}.deleted"):
            events.subscribe(what, lambda what=what, **fields: told.append((what, fields)))
    users = Users(events=events)
    topic = TopicPermissions("^a", "")

    for _ in range(2):
        alice = users.add("alice", "secret")
        users.set_permissions("alice", "/", ALL)
        users.set_topic_permissions("alice", "/", "t", topic)
    row = {"user": "alice", "vhost": "/"}
    assert [
        ("user.changed", {"user": alice}),
        ("permissions.changed", {**row, "permissions": ALL}),
        ("topic_permissions.changed", {**row, "exchange": "t", "permissions": topic}),
    ] == told

    told.clear()
    for _ in range(2):
        users.clear_permissions("alice", "/")
        users.clear_topic_permissions("alice", "/", "t")
        users.clear_topic_permissions("alice", "/")
    users.delete("alice")
    assert [
        ("permissions.deleted", row),
        ("topic_permissions.deleted", {**row, "exchange": "t"}),
        ("user.deleted", {"user": alice}),
    ] == told


def test_setting_again_what_is_set_leaves_the_memo():
    users = users_with(".*", ".*", ".*")
    users.set_topic_permissions("alice", "/", "t", TopicPermissions("^a", ""))
    before = users.epoch

    users.add("alice", "secret")
    users.set_permissions("alice", "/", ALL)
    users.set_topic_permissions("alice", "/", "t", TopicPermissions("^a", ""))

    assert before == users.epoch
