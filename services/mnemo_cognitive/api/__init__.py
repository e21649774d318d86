"""The wire of cognitive: requests in, domain calls, responses out."""
