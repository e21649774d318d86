"""What event-bus means: a log without gaps, filters, readers and subscriptions with credit."""
