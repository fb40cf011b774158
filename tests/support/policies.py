"""Policies as tests set them: on a virtual host, in effect at once."""

from leveret.broker.core.policy import Policy

from .client import finish


def set_policy(vhost, definition, pattern=".*", apply_to="queues", name="p"):
    """Have everything whose name matches ask for something, or for nothing any more (None)."""
    if definition is None:
        vhost.policies.delete(name)
    else:
        vhost.policies.put(Policy(name, pattern, definition, apply_to))
    vhost.apply_policies()
    finish(vhost.broker)
