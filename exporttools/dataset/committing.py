"""The one who may commit to a dataset: from when it says so by a manifest of its own, until another does."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from exporttools.dataset.manifest import (
    Manifest,
    Window,
    first_child,
    manifest_numbers,
    read_manifest,
    read_part_files,
)
from exporttools.dataset.storage import Storage
from exporttools.errors import DestinationConflict
from exporttools.records.schema import RECORD_TYPES


class Committer:
    """Commits windows, each by a manifest.

    Parameters
    ----------
    storage : Storage
    known : Manifest
        The newest, as far as the caller knows.

    Attributes
    ----------
    manifest : Manifest
        The newest that it wrote.

    Raises
    ------
    DestinationConflict
        When it is made, or by a commit: another wrote a manifest meanwhile.
    """

    def __init__(self, storage: Storage, known: Manifest) -> None:
        self._storage, self._writer = storage, secrets.token_hex(8)
        self.manifest = known
        self._create(
            known.child("start", self._writer, known.windows) if known.number else first_child(known, self._writer)
        )
        # From here on no earlier export can commit, so that whatever no manifest lists is nobody's any more.
        remove_orphans(storage)

    def commit(self, window: Window) -> None:
        """Commit a window, in the place of those that it overlaps."""
        self._create(self.manifest.with_window(self._writer, window))

    def replace(self, windows: Sequence[Window]) -> None:
        """Commit other windows of the same rows."""
        self._create(self.manifest.child("compact", self._writer, windows))

    def _create(self, manifest: Manifest) -> None:
        try:
            self._storage.create(manifest.path, manifest.encoded())
        except FileExistsError as error:
            raise self.conflict() from error
        self.manifest = manifest

    def overtaken(self) -> bool:
        """Whether another has begun since."""
        try:
            return manifest_numbers(self._storage)[-1:] > [self.manifest.number]
        except OSError:
            return False

    def conflict(self) -> DestinationConflict:
        """The error that another has begun."""
        return DestinationConflict(
            f"{self._storage.url}: another export began here, with a manifest after {self.manifest.number}; this one stops. "
            "What it committed stays; what it did not, the other exports"
        )


def remove_orphans(storage: Storage) -> int:
    """Remove the part files that no manifest lists; gives how many. Only for who has just announced itself."""
    listed: set[str] = set()
    seen: set[str] = set()
    for number in manifest_numbers(storage):
        manifest = read_manifest(storage, number)
        for window in manifest.windows if manifest else ():
            if window.parts_path not in seen:
                seen.add(window.parts_path)
                listed.update(part.path for part in read_part_files(storage, window))
    orphans = [
        path
        for prefix in (*(f"{table}/" for table in RECORD_TYPES), "_manifest/windows/")
        for path, _ in storage.list(prefix)
        if path not in listed and path not in seen
    ]
    for path in orphans:
        storage.delete(path)
    return len(orphans)
