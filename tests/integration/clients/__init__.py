"""Real client libraries against a running broker, each in its documented way of use."""
