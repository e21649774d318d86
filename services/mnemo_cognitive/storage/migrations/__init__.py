"""The tables of cognitive, one numbered SQL file a step."""
