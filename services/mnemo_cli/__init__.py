"""The `mnemo` command."""
