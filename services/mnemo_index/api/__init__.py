"""The wire of the index: requests in, domain calls, responses out."""
