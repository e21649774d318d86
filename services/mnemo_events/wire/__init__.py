"""Messages of the contracts as values of the domain, and back."""
