"""What a verification finds wrong. Verifies nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from exporttools.text.inert import one_line, shown_name


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a bundle or dataset is not what it says it is.

    Attributes
    ----------
    code : str
        For a bundle's files: ``missing``, ``unexpected``, ``not-a-file``, ``linked``, ``too-large``, ``too-many``, ``archive``;
        for their bytes: ``changed``, ``malformed``, ``signature``; for the rows: ``format``, ``schema``, ``content``; for
        what the caller demands: ``not-trusted``, ``not-expected`` (docs/bundle-format.md explains them). For a
        dataset, see :class:`exporttools.dataset.DatasetVerification`.
    path : str
        The file, relative to the bundle or dataset.
    expected, found : str
    """

    code: str
    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.code}: {shown_name(self.path)}: expected {one_line(self.expected)}; found {one_line(self.found)}"
