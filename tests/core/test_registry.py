"""The registry: what plugins add, what they may not, and what is left of one that fails."""

from types import SimpleNamespace

import pytest

from leveret.broker import plugins
from leveret.broker.core.broker import Broker
from leveret.broker.core.exchange_types import Fanout
from leveret.broker.core.hooks import Phase
from leveret.broker.core.registry import Registered, Registry, RegistryError, policy_key
from leveret.broker.core.users import User


def number(value, arguments):
    return None if isinstance(value, int) else "no number"


@pytest.fixture
def registry():
    made = Registry()
    made.begin(Registered("mine", "1"))
    return made


def test_an_argument_of_ones_own_is_a_policy_key_too(registry):
    registry.argument("x-mine", number, wanted="a number", smaller_wins=True)

    assert "x-mine" in registry.queue_arguments
    assert (None, "a number") == tuple(map(registry.policy_keys["mine"], (1, "1")))
    assert "mine" in registry.effective_keys & registry.smaller_wins


def test_an_argument_that_is_known_gets_its_meaning(registry):
    was = registry.queue_arguments["x-message-ttl"]
    registry.argument("x-message-ttl")

    assert (False, True) == (was.effective, registry.queue_arguments["x-message-ttl"].effective)


def test_arguments_of_consumers_are_no_policy_keys(registry):
    registry.argument("x-mine", number, applies_to="consumers")

    assert "x-mine" in registry.consumer_arguments
    assert "mine" not in registry.policy_keys


def test_what_is_there_already_is_refused(registry):
    with pytest.raises(RegistryError, match="there is an argument"):
        registry.argument("x-message-ttl", number)
    with pytest.raises(RegistryError, match="there is an exchange type 'fanout'"):
        registry.exchange_type(Fanout)


def test_an_argument_that_nobody_knows_needs_a_validator(registry):
    with pytest.raises(RegistryError, match="needs a validator"):
        registry.argument("x-nobody")


def test_hooks_are_asked_by_phase_then_by_name(registry):
    def first(queue):
        return None

    def second(queue):
        return None

    registry.queue_hook(second, phase=Phase.EXPIRE)
    registry.begin(Registered("a"))
    registry.queue_hook(first, phase=Phase.EXPIRE)
    registry.queue_hook(first, phase=Phase.REFUSE)

    assert [first, first, second] == [choose for _, _, choose in registry.queue_hooks]


def test_what_was_registered_is_noted(registry):
    registry.argument("x-mine", number)
    registry.start(lambda broker: None)
    registry.start(lambda broker: None)

    assert ["argument x-mine", "start"] == registry.plugins["mine"].what


def test_a_policy_key_has_no_prefix():
    assert ("message-ttl", "delayed") == tuple(map(policy_key, ("x-message-ttl", "delayed")))


# loading


def loaded(monkeypatch, *modules, **options):
    """Load plugins by these names; a callable stands for `register`, else for the import."""
    found = [(name, "1.0", find) for name, find in modules]
    monkeypatch.setattr(plugins, "_others", lambda: iter(found))
    return plugins.load(**options)


def of(register):
    return lambda: SimpleNamespace(register=register)


def test_a_plugin_that_fails_is_named_and_leaves_nothing(monkeypatch):
    def register(registry):
        registry.argument("x-mine", number, smaller_wins=True)
        registry.queue_hook(lambda queue: None, phase=Phase.PLACE)
        registry.start(lambda broker: None)
        raise ZeroDivisionError("oh")

    with_it, without = loaded(monkeypatch, ("bad", of(register))), plugins.load(("bad",))

    plugin = with_it.plugins["bad"]
    assert (False, "ZeroDivisionError: oh", []) == (plugin.is_enabled, plugin.problem, plugin.what)
    assert without.queue_arguments.keys() == with_it.queue_arguments.keys()
    assert "mine" not in with_it.policy_keys.keys() | with_it.effective_keys | with_it.smaller_wins
    assert len(without.queue_hooks) == len(with_it.queue_hooks)
    assert len(without.starts) == len(with_it.starts)


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    def find():
        raise ImportError("no module")

    assert "ImportError: no module" == loaded(monkeypatch, ("bad", find)).plugins["bad"].problem


def test_a_plugin_without_register_is_named(monkeypatch):
    registry = loaded(monkeypatch, ("bad", SimpleNamespace), ("good", of(lambda registry: None)))

    assert "register" in registry.plugins["bad"].problem
    assert registry.plugins["good"].is_enabled


def test_a_plugin_may_be_left_out(monkeypatch):
    registry = loaded(
        monkeypatch, ("mine", of(lambda registry: 1 / 0)), disabled=("mine", "max_length")
    )

    assert not registry.plugins["mine"].is_enabled
    assert "" == registry.plugins["mine"].problem
    assert not registry.queue_arguments["x-max-length"].effective
    assert registry.queue_arguments["x-message-ttl"].effective


def test_all_built_in_plugins_load():
    registry = plugins.load(are_others_wanted=False)

    assert list(plugins.BUILT_IN) == list(registry.plugins)
    assert not [each.problem for each in registry.plugins.values() if each.problem]


# Who else may know a user


def ask(broker: Broker, name: str, password: bytes) -> User | None:
    """Know everybody whose password is the name backwards."""
    return User(name, "", "", ("monitoring",)) if password.decode() == name[::-1] else None


def with_authenticator(authenticate):
    registry = Registry()
    registry.authenticator("backwards", authenticate)
    broker = Broker(registry=registry)
    broker.add_defaults()
    return broker


def test_an_authenticator_is_asked_about_who_is_not_known():
    broker = with_authenticator(ask)

    assert ("monitoring",) == broker.users.authenticate("ada", "ada"[::-1]).tags
    assert broker.users.authenticate("ada", "wrong") is None


def test_who_is_known_needs_no_authenticator():
    asked = []
    broker = with_authenticator(lambda *who: asked.append(who))

    assert "guest" == broker.users.authenticate("guest", "guest").name
    assert [] == asked


def test_an_authenticator_that_raises_knows_nobody_and_is_told():
    broker = with_authenticator(lambda *_: 1 / 0)
    problems = []
    broker.batch.failed = lambda who, problem: problems.append((who, type(problem)))

    assert broker.users.authenticate("ada", "ada") is None
    assert [("authenticator backwards", ZeroDivisionError)] == problems
