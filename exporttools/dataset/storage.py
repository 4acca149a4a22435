"""Where a dataset's files lie: a directory, or a place in an object store. Knows names and bytes, not what they mean.

A dataset needs one thing of its storage beyond reading and writing: to create a file only if none of that name is there,
whoever else tries at the same moment. On disk link(2) and rename do that, in object stores a conditional put; storage
that cannot is refused before anything depends on it.
"""

from __future__ import annotations

import io
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from exporttools.errors import ConfigError, DatasetError, MissingExtra
from exporttools.files.durable import StagedFile, fsync, new_file, staged_file
from exporttools.text.inert import one_line
from exporttools.times import EPOCH

if TYPE_CHECKING:
    import duckdb
    import pyarrow.fs

_OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
_ACCEPTED = (
    "a directory, file:///directory, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or an obstore store"
)


class NewPartFile(Protocol):
    """A file that is being written and has no place yet.

    Attributes
    ----------
    file : BinaryIO
        On a local disk; open for writing, reading and seeking.
    """

    file: BinaryIO

    def publish(self, path: str) -> None:
        """Put the whole file at a path that its content names; fine where it is already. `file` is closed."""


@runtime_checkable
class Storage(Protocol):
    """Files by their path relative to the dataset, with ``/``. Picklable.

    Attributes
    ----------
    url : str
        What messages call it; no secrets.
    """

    url: str

    def read(self, path: str) -> bytes:
        """A file's bytes; FileNotFoundError."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Create a file, durably and as a whole; FileExistsError where one is, then or at the same moment."""

    def new_part_file(self) -> AbstractContextManager[NewPartFile]:
        """A file to write; it vanishes with the block unless it was published."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The files under a prefix that ends in ``/``, however deep: path and size in bytes."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; fine where there is none."""

    def open(self, path: str) -> BinaryIO:
        """A file to read and seek in; FileNotFoundError."""
        ...

    def location(self, path: str) -> str:
        """What other programs call the file."""
        ...

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """With which pyarrow reads :meth:`arrow_path`."""
        ...

    def arrow_path(self, path: str) -> str:
        """The file within :meth:`arrow_filesystem`."""
        ...

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read :meth:`location`."""


Destination = str | os.PathLike[str] | Storage
"""What names a dataset's place: a path, a URL, an obstore store, or a storage."""


def open_storage(destination: Destination, *, create: bool = False) -> Storage:
    """The storage of a dataset.

    Parameters
    ----------
    destination : str, path, obstore store or Storage
    create : bool
        Whether to make a directory that is not there.

    Raises
    ------
    ConfigError
        Not such a thing, or a URL of another kind.
    MissingExtra
        A URL of an object store, without the extra ``cloud``.
    """
    if isinstance(destination, (LocalStorage, ObjectStorage)):
        return destination
    if type(destination).__module__.partition(".")[0] == "obstore":
        return ObjectStorage(None, destination)
    if isinstance(destination, str) and "://" in destination:
        scheme = urlsplit(destination).scheme.lower()
        if scheme in _OBJECT_SCHEMES:
            return ObjectStorage(destination)
        if scheme != "file":
            raise ConfigError(
                f"a dataset cannot lie at {one_line(scheme, 20)}://: no file can be created there only if none of its name "
                f"is there; accepted are {_ACCEPTED}"
            )
        destination = unquote(urlsplit(destination).path)
    if not isinstance(destination, (str, os.PathLike)) or not os.fspath(destination):
        raise ConfigError(f"a dataset's place is {one_line(repr(destination), 80)}; accepted are {_ACCEPTED}")
    root = Path(os.fspath(destination)).absolute()
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; expected a directory, or nothing yet")
    if create:
        root.mkdir(parents=True, exist_ok=True)
    return LocalStorage(root)


class LocalStorage:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        """See :class:`Storage`, as for all that follows."""
        return (self._root / path).read_bytes()

    def create(self, path: str, data: bytes) -> None:
        """See :class:`Storage`."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_file(target) as file:
            file.write(data)

    @contextmanager
    def new_part_file(self) -> Iterator[NewPartFile]:
        """See :class:`Storage`."""
        with staged_file(self._root / "part") as staged:
            yield _LocalPartFile(self._root, staged)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Storage`."""
        for directory, _, names in os.walk(self._root / prefix):
            for name in sorted(names):
                path = Path(directory, name)
                yield path.relative_to(self._root).as_posix(), path.lstat().st_size

    def delete(self, path: str) -> None:
        """See :class:`Storage`."""
        (self._root / path).unlink(missing_ok=True)

    def open(self, path: str) -> BinaryIO:
        """See :class:`Storage`."""
        return (self._root / path).open("rb")

    def location(self, path: str) -> str:
        """See :class:`Storage`."""
        return str(self._root / path)

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """See :class:`Storage`."""
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem()

    def arrow_path(self, path: str) -> str:
        """See :class:`Storage`."""
        return self.location(path)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See :class:`Storage`; DuckDB reads directories by itself."""


class _LocalPartFile:
    def __init__(self, root: Path, staged: StagedFile) -> None:
        self._root, self._staged = root, staged
        self.file = staged.file

    def publish(self, path: str) -> None:
        target = self._root / path
        _make_directories(target.parent, self._root)
        size = self.file.seek(0, os.SEEK_END)
        try:
            self._staged.publish(target)
        except FileExistsError:
            if target.stat().st_size != size:
                raise


def _make_directories(directory: Path, root: Path) -> None:
    """Make directories so that they outlive a power failure: each is synced into the one above it."""
    if directory == root or directory.is_dir():
        return
    _make_directories(directory.parent, root)
    directory.mkdir(exist_ok=True)
    fsync(directory.parent)


class ObjectStorage:
    """A place in an object store that has conditional puts (S3 since 2024, GCS, Azure, MinIO, ...), through obstore.

    Parameters
    ----------
    url : str or None
        ``s3://bucket/prefix``; settings and credentials come from the environment, as for the provider's own tools
        (``AWS_REGION``, ``AWS_ENDPOINT_URL``, ...).
    store : obstore store, optional
        One with settings of its own, instead of a URL. It is pickled with its settings, credentials included.
    """

    def __init__(self, url: str | None, store: Any = None) -> None:
        self._given = (url, store)
        self._checked = False
        with _extra():
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
                raise ConfigError(f"a dataset cannot lie in a {type(store).__name__}; accepted are {_ACCEPTED}")
            config = store.config
            bucket = config.get("bucket") or config.get("container_name") or ""
            url = f"{kind}://{bucket}/{store.prefix or ''}"
        parts = urlsplit(url)
        # An account's name or key may stand before the @.
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, self._given

    def read(self, path: str) -> bytes:
        """See :class:`Storage`, as for all that follows."""
        with self._translated(path):
            return bytes(self._obstore.get(self._store, path).bytes())

    def create(self, path: str, data: bytes) -> None:
        """See :class:`Storage`."""
        self._require_conditional_put()
        with self._translated(path):
            self._obstore.put(self._store, path, data, mode="create")

    def _require_conditional_put(self) -> None:
        """Ask before a manifest depends on it: of two who create one name, the second must be refused."""
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
            raise self._no_conditional_put("it replaced an object that was to be created only if absent")

    def _no_conditional_put(self, why: str) -> DatasetError:
        return DatasetError(
            f"{self.url} has no conditional put (If-None-Match: *): {one_line(why, 200)}. Two exports at once could lose a "
            "manifest there, so none is begun; export to a directory, or to a store that has it"
        )

    @contextmanager
    def new_part_file(self) -> Iterator[NewPartFile]:
        """See :class:`Storage`."""
        with tempfile.TemporaryFile(prefix="exporttools-") as file:
            yield _ObjectPartFile(self, file)

    def upload(self, file: BinaryIO, path: str) -> None:
        """Put a local file at a path, whole: object stores show nothing of an upload before its end."""
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

    def open(self, path: str) -> BinaryIO:
        """See :class:`Storage`."""
        with self._translated(path):
            return io.BufferedReader(_ObjectFile(self._obstore, self._store, path))

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
        with _extra():
            import fsspec

        return _filesystem_class(fsspec)(self)

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Obstore's errors as the file system's."""
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
    """An object, to read and seek in."""

    def __init__(self, obstore: Any, store: Any, path: str) -> None:
        self._obstore, self._store, self._path = obstore, store, path
        self._size = int(obstore.head(store, path)["size"])
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
        data = self._obstore.get_range(self._store, self._path, start=self._at, end=end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _filesystem_class(fsspec: Any) -> Any:
    """The files of one storage as fsspec knows them: what pyarrow and DuckDB read by. Reads only what it is asked for."""

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
            # Parts are named by their content.
            return EPOCH

    return DatasetFileSystem


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra("cloud", "a dataset in an object store") from error
