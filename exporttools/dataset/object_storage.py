"""A dataset's files in an object store with conditional puts, through obstore; for pyarrow and DuckDB through fsspec."""

from __future__ import annotations

import io
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from exporttools.dataset.storage import NewPartFile
from exporttools.errors import ConfigError, DatasetError, MissingExtra
from exporttools.text.inert import one_line
from exporttools.times import EPOCH

if TYPE_CHECKING:
    import duckdb
    import pyarrow.fs


class ObjectStorage:
    """Files below a prefix of an object store; see :class:`Storage` for its methods.

    The store must support conditional puts, as S3 (since 2024), GCS, Azure and MinIO do.

    Parameters
    ----------
    url : str or None
        ``s3://bucket/prefix``; settings and credentials come from the environment, as for the provider's own tools
        (``AWS_REGION``, ``AWS_ENDPOINT_URL``, ...).
    store : obstore store, optional
        Instead of a URL, a store with its own settings. It is pickled with them, credentials included.
    """

    def __init__(self, url: str | None, store: Any = None) -> None:
        self._given = (url, store)
        self._checked = False
        with _needs_cloud():
            import obstore
            from obstore.store import from_url

        self._obstore = obstore
        try:
            self._store = from_url(url.replace("s3a://", "s3://", 1)) if url is not None else store
        except Exception as error:
            raise ConfigError(f"{one_line(url, 200)}: {one_line(error, 300)}") from error
        if url is None:
            kind = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}.get(type(store).__name__)
            if kind is None:
                raise ConfigError(
                    f"a dataset cannot be stored in a {type(store).__name__}; expected an S3Store, GCSStore or AzureStore"
                )
            config = store.config
            bucket = config.get("bucket") or config.get("container_name") or ""
            url = f"{kind}://{bucket}/{store.prefix or ''}"
        parts = urlsplit(url)
        # An account's name or key may come before the @.
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, self._given

    def read(self, path: str) -> bytes:
        """See :class:`Storage`."""
        with self._translated(path):
            return bytes(self._obstore.get(self._store, path).bytes())

    def create(self, path: str, data: bytes) -> None:
        """See :class:`Storage`."""
        self._require_conditional_put()
        with self._translated(path):
            self._obstore.put(self._store, path, data, mode="create")

    def _require_conditional_put(self) -> None:
        """Check, before a manifest depends on it, that a second put of one name is refused."""
        if self._checked:
            return
        probe = f"_manifest/.probe-{secrets.token_hex(8)}"
        try:
            with self._translated(probe):
                self._obstore.put(self._store, probe, b"1", mode="create")
            try:
                with self._translated(probe):
                    self._obstore.put(self._store, probe, b"2", mode="create")
            except FileExistsError:
                self._checked = True
        except NotImplementedError as error:
            raise self._no_conditional_put(str(error)) from error
        finally:
            self.delete(probe)
        if not self._checked:
            raise self._no_conditional_put("it replaced an object that should only have been created if absent")

    def _no_conditional_put(self, why: str) -> DatasetError:
        return DatasetError(
            f"{self.url} does not support conditional puts (If-None-Match: *): {one_line(why, 200)}. Two simultaneous exports "
            "could lose a manifest there, so nothing was exported; export to a directory, or to a store with conditional puts"
        )

    @contextmanager
    def new_part_file(self) -> Iterator[NewPartFile]:
        """See :class:`Storage`."""
        with tempfile.TemporaryFile(prefix="exporttools-") as file:
            yield _ObjectPartFile(self, file)

    def upload(self, file: BinaryIO, path: str) -> None:
        """Upload a local file; object stores show nothing of an upload until it is complete."""
        file.seek(0)
        with self._translated(path):
            self._obstore.put(self._store, path, file)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Storage`."""
        with self._translated(prefix):
            for found in self._obstore.list(self._store, prefix=prefix):
                for item in found:
                    yield item["path"], item["size"]

    def delete(self, path: str) -> None:
        """See :class:`Storage`."""
        try:
            with self._translated(path):
                self._obstore.delete(self._store, path)
        except FileNotFoundError:
            return

    def open(self, path: str) -> io.BufferedReader:
        """See :class:`Storage`."""
        with self._translated(path):
            return io.BufferedReader(_ObjectFile(self, path, int(self._obstore.head(self._store, path)["size"])))

    def read_range(self, path: str, start: int, end: int) -> Any:
        """Return the bytes [start, end) of a file."""
        with self._translated(path):
            return self._obstore.get_range(self._store, path, start=start, end=end)

    def location(self, path: str) -> str:
        """See :class:`Storage`."""
        return f"{self.url}/{path}"

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """See :class:`Storage`."""
        import pyarrow.fs

        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fsspec()))

    def arrow_path(self, path: str) -> str:
        """See :class:`Storage`."""
        return self.location(path).partition("://")[2]

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See :class:`Storage`."""
        connection.register_filesystem(self._fsspec())

    def _fsspec(self) -> Any:
        with _needs_cloud():
            import fsspec

        return _filesystem_class(fsspec)(self)

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Raise obstore's errors as the OSErrors that a file system would raise."""
        errors = self._obstore.exceptions
        try:
            yield
        except errors.AlreadyExistsError as error:
            raise FileExistsError(f"{self.url}/{path}") from error
        except (errors.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(f"{self.url}/{path}") from error
        except errors.NotSupportedError as error:
            raise NotImplementedError(one_line(error, 300)) from error
        except errors.BaseError as error:
            raise OSError(f"{self.url}: {one_line(error, 400)}") from error


class _ObjectPartFile:
    def __init__(self, storage: ObjectStorage, file: BinaryIO) -> None:
        self._storage = storage
        self.file = file

    def publish(self, path: str) -> None:
        self._storage.upload(self.file, path)


class _ObjectFile(io.RawIOBase):
    """An object, readable and seekable."""

    def __init__(self, storage: ObjectStorage, path: str, size: int) -> None:
        self._storage, self._path, self._size = storage, path, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._at + len(buffer))
        if end <= self._at:
            return 0
        data = self._storage.read_range(self._path, self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _filesystem_class(fsspec: Any) -> Any:
    """The fsspec class through which pyarrow and DuckDB read a storage's files, and only those they name."""

    class DatasetFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
        cachable = False

        def __init__(self, storage: ObjectStorage) -> None:
            super().__init__()
            self.protocol = storage.url.partition("://")[0]
            self._storage = storage
            self._root = storage.url.partition("://")[2]

        def _relative(self, path: str) -> str:
            return path.rpartition("://")[2].removeprefix(self._root).lstrip("/")

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            with self._storage.open(self._relative(path)) as file:
                return {"name": path, "size": file.seek(0, os.SEEK_END), "type": "file"}

        def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
            return [self.info(path) if detail else path]

        def glob(self, path: str, **_: Any) -> list[str]:
            return [path]

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:  # noqa: ARG002
            return self._storage.open(self._relative(path))

        def modified(self, path: str) -> Any:  # noqa: ARG002
            # Part files are named by their content and never change.
            return EPOCH

    return DatasetFileSystem


@contextmanager
def _needs_cloud() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra("cloud", "a dataset in an object store") from error
