"""What the gateway means: API keys, principals and their scopes."""
