"""The Celery application of the tests: workers run `app`, the tests make the same one.

Run in the root of the checkout: `celery -A tests.integration.clients.celery_app worker`.
"""

import json
import os
import time
from collections.abc import Mapping

from celery import Celery, shared_task
from kombu import Exchange, Queue

APPLICATION = "LEVERET_CELERY"  # in the environment of workers: the arguments of `make_app` in JSON


def make_app(
    broker: str,
    backend: str,
    queue: str,
    arguments: Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
    exchange: str = "direct",
) -> Celery:
    """Make the application.

    Args:
      broker: The address of its broker.
      backend: The address of its result store.
      queue: The name of its only queue.
      arguments: What the queue is declared with.
      settings: More settings, by their names.
      exchange: The type of the exchange of a queue with arguments.
    """
    app = Celery("leveret_tests", broker=broker, backend=backend)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "confirm_publish": True,
            # Options of its own also keep the pools of kombu, which all applications share, apart.
            "client_properties": {"connection_name": queue},
        },
        result_chord_retry_interval=0.2,  # how soon a chord looks again whether all are done
        result_expires=60,
        task_default_queue=queue,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=1,
    )
    app.conf.update(settings or {})
    if arguments:
        source = Exchange(queue, exchange)
        made = Queue(queue, source, queue, queue_arguments=arguments)
        app.conf.task_queues = [made]
    return app


@shared_task
def add(x, y):
    return x + y


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def echo(value):
    return value


@shared_task
def fail(text):
    raise ValueError(text)


@shared_task(bind=True, max_retries=5)
def succeed_at(self, attempt):
    """Fail until this is attempt number `attempt`; return how often it was tried."""
    if self.request.retries + 1 < attempt:
        raise self.retry(countdown=0.05)
    return self.request.retries + 1


@shared_task(bind=True, max_retries=2)
def never_succeed(self):
    raise self.retry(countdown=0, exc=ConnectionError("still down"))


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self):
    """Kill the pool process at the first delivery; tell at the second that there was one."""
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), 9)
    return "delivered again"


@shared_task(bind=True)
def delivered(self):
    """Tell how the task came."""
    return self.request.delivery_info


@shared_task
def moment():
    """Tell when the task ran, in seconds since 1970."""
    return time.time()


@shared_task(bind=True)
def moment_of_retry(self, countdown):
    """Fail once, and tell when the second attempt ran."""
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    return time.time()


@shared_task(ignore_result=True)
def note(path, number, due):
    """Add to a file: a number, and by how many seconds it came after it was due."""
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{number} {time.time() - due:.6f}\n")


if APPLICATION in os.environ:
    app = make_app(**json.loads(os.environ[APPLICATION]))
