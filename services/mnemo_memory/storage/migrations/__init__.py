"""The tables of memory-core, one numbered SQL file a step."""
