"""A broker with the built-in plugins."""

import pytest

from leveret.broker import plugins
from leveret.broker.core.broker import Broker
from leveret.broker.core.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return plugins.load(are_others_wanted=False)


@pytest.fixture
def broker(registry: Registry) -> Broker:
    made = Broker(registry=registry)
    made.add_defaults()
    return made


@pytest.fixture
def vhost(broker: Broker):
    return broker.vhosts["/"]
