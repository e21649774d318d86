"""The tables of event-bus, one numbered SQL file a step."""
