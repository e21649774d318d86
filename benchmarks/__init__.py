"""Measurements of quality and speed; nothing here is part of the product."""
