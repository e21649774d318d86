"""gateway: the door to an installation."""
