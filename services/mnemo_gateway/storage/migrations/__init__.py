"""The tables of the gateway, one numbered SQL file a step."""
