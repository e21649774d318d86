"""Everything a service needs to serve."""
