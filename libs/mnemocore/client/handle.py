"""What all methods of a space start from: its name, and the services of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnemocore.client.services import Services


class SpaceHandle:
    """A space by its id; nothing is sent."""

    def __init__(self, services: Services, space_id: str) -> None:
        self.id = space_id
        self._services = services
        self._name = f"spaces/{space_id}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"
