"""The Celery application of the tests: workers run `app`, the tests make the same one.

Run in the root of the checkout: `celery -A tests.integration.clients.celery_app worker`.
"""

import os

from celery import Celery, shared_task


def make_app(broker: str, backend: str, queue: str) -> Celery:
    """Make the application with the address of its broker, its result store, its queue."""
    app = Celery("leveret_tests", broker=broker, backend=backend)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={"confirm_publish": True},
        result_chord_retry_interval=0.2,  # how soon a chord looks again whether all are done
        result_expires=60,
        task_default_queue=queue,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=1,
    )
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


if "LEVERET_CELERY_BROKER" in os.environ:  # set for worker processes
    app = make_app(
        os.environ["LEVERET_CELERY_BROKER"],
        os.environ["LEVERET_CELERY_BACKEND"],
        os.environ["LEVERET_CELERY_QUEUE"],
    )
