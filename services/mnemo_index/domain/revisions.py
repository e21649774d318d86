"""Which changes of a space are applied: each once, in whatever batches they come, never an older over a newer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mnemo_index.domain.documents import Change
    from mnemocore.ids import MemoryId


class Revisions:
    """The revisions of a space that are applied.

    `applied` is the last of those applied without a gap, `ahead` are those applied beyond it. Removed memories are
    remembered with their revisions, in `removed`, only while an older change of them may still come.
    """

    def __init__(self, applied: int = 0, ahead: Iterable[int] = (), removed: Mapping[str, int] | None = None) -> None:
        self.applied = applied
        self.ahead = set(ahead)
        self.removed: dict[str, int] = dict(removed or {})

    def copy(self) -> Revisions:
        """The same, independent of this one."""
        return Revisions(self.applied, self.ahead, self.removed)

    def fresh(self, changes: Sequence[Change]) -> list[Change]:
        """The changes not yet applied, each revision once, in order."""
        known = {change.revision: change for change in changes if change.revision > self.applied}
        return [known[revision] for revision in sorted(known) if revision not in self.ahead]

    def latest(self, fresh: Sequence[Change], held: Callable[[MemoryId], int]) -> dict[MemoryId, Change]:
        """The last change of each memory in `fresh`, in order, unless a newer one is known of it.

        `held` tells the revision of a memory that is held, 0 for others.
        """
        last = {change.memory_id: change.revision for change in fresh}
        return {
            change.memory_id: change
            for change in fresh
            if change.revision == last[change.memory_id]
            and change.revision > (held(change.memory_id) or self.removed.get(change.memory_id, 0))
        }

    def note(self, fresh: Sequence[Change], latest: Mapping[MemoryId, Change]) -> None:
        """Say that the changes `fresh` are applied, of which `latest` had an effect."""
        self.ahead.update(change.revision for change in fresh)
        while self.applied + 1 in self.ahead:
            self.applied += 1
            self.ahead.remove(self.applied)
        for memory_id, change in latest.items():
            self.removed.pop(memory_id, None)
            if change.removes:
                self.removed[memory_id] = change.revision
        if not self.ahead:
            self.removed.clear()
