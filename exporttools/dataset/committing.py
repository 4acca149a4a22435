"""The only writer that may commit to a dataset: it announces itself by a manifest, and stays so until another does."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from exporttools.dataset.manifest import Manifest, Window, first_child
from exporttools.dataset.manifest_reader import manifest_numbers, read_manifest, read_part_files
from exporttools.dataset.storage import Storage
from exporttools.errors import DatasetUnreadable, DestinationConflict
from exporttools.records.schema import RECORD_TYPES


class Committer:
    """Commit windows, each by a manifest.

    Parameters
    ----------
    storage : Storage
    known : Manifest
        The newest that the caller knows.

    Attributes
    ----------
    manifest : Manifest
        The newest that this committer wrote.

    Raises
    ------
    DestinationConflict
        Another writer wrote a manifest meanwhile; raised by the constructor and by each commit.
    """

    def __init__(self, storage: Storage, known: Manifest) -> None:
        self._storage, self._writer = storage, secrets.token_hex(8)
        self.manifest = known
        self._create(
            known.child("start", self._writer, known.windows) if known.number else first_child(known, self._writer)
        )
        # From here on no earlier export can commit, so nobody needs a file that no manifest lists.
        remove_orphans(storage)

    def commit(self, window: Window) -> None:
        """Commit a window, replacing those that it overlaps."""
        self._create(self.manifest.with_window(self._writer, window))

    def replace(self, windows: Sequence[Window]) -> None:
        """Commit other windows with the same rows."""
        self._create(self.manifest.child("compact", self._writer, windows))

    def _create(self, manifest: Manifest) -> None:
        try:
            self._storage.create(manifest.path, manifest.encoded())
        except FileExistsError as error:
            raise self.conflict() from error
        self.manifest = manifest

    def overtaken(self) -> bool:
        """Return whether another writer has begun since."""
        try:
            return manifest_numbers(self._storage)[-1:] > [self.manifest.number]
        except DatasetUnreadable:
            return False

    def conflict(self) -> DestinationConflict:
        """Return the error that says that another writer has begun."""
        return DestinationConflict(
            f"{self._storage.url}: another export began here, with a manifest after {self.manifest.number}; this one stops. "
            "Its commits stay; the other export writes the rest"
        )


def remove_orphans(storage: Storage) -> int:
    """Remove files that no manifest lists and return how many. Only for a writer that has just announced itself."""
    listed: set[str] = set()
    part_lists: set[str] = set()
    for number in manifest_numbers(storage):
        manifest = read_manifest(storage, number)
        for window in manifest.windows if manifest else ():
            if window.parts_path not in part_lists:
                part_lists.add(window.parts_path)
                listed.update(part_file.path for part_file in read_part_files(storage, window))
    orphans = [
        path
        for prefix in (*(f"{table}/" for table in RECORD_TYPES), "_manifest/windows/")
        for path, _ in storage.list(prefix)
        if path not in listed and path not in part_lists
    ]
    for path in orphans:
        storage.delete(path)
    return len(orphans)
