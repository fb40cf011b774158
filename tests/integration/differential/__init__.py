"""Conversations held with RabbitMQ and with Leveret, whose answers must be the same."""
