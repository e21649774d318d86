"""event-bus: the durable, ordered log of what happened."""
