"""The wire of the gateway: its own service, authentication, and the proxy for everything else."""
