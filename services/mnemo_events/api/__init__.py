"""The wire of event-bus: requests in, domain calls, responses out."""
