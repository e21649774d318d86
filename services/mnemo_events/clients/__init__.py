"""What event-bus talks to: the endpoints of webhooks, over HTTP."""
