"""Leveret: a message broker that speaks RabbitMQ's AMQP 0-9-1.

The public face. Heavy parts are imported when first asked for, so that
``import leveret`` costs nothing.
"""

from leveret.broker import __version__

__all__ = ["__version__"]
