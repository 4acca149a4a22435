"""What a caller demands of a bundle: signed by keys that they trust, about the incident or run that they mean. Opens no file.

A demand is met or the bundle fails. It is never weakened: a demand that nothing could meet, or that says nothing, is an
error before any bundle is opened.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from exporttools.bundle import attestation, description
from exporttools.bundle.attestation import SignatureCheck
from exporttools.bundle.keys import TrustedKey, TrustedKeySource, load_trusted_keys
from exporttools.errors import ConfigError
from exporttools.files.findings import Finding
from exporttools.text.inert import one_line, shown_name
from exporttools.times import parse_utc, time_text

TrustedKeySources: TypeAlias = "Iterable[TrustedKeySource] | TrustedKeySource | None"

_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class Demands:
    """What is demanded of a bundle; without arguments, nothing.

    Attributes
    ----------
    trusted_keys : tuple of TrustedKey
        Each once. If there are any, `threshold` of them must have signed.
    require_trusted : bool
        Whether a bundle that they have not signed fails; if not, its verdict says so.
    threshold : int
    incident_id, run_id : str or None
        The incident and the run that the bundle must be about.
    """

    trusted_keys: tuple[TrustedKey, ...] = ()
    require_trusted: bool = True
    threshold: int = 1
    incident_id: str | None = None
    run_id: str | None = None

    @classmethod
    def of(
        cls,
        trusted_keys: TrustedKeySources,
        *,
        require_trusted: bool = True,
        threshold: int = 1,
        incident_id: str | None = None,
        run_id: str | None = None,
    ) -> Self:
        """Load the keys, and check that the demands make sense.

        Raises
        ------
        ConfigError
            A key is not valid, or there is none in what was given; `threshold` is not 1 to the number of different keys;
            `require_trusted` or `threshold` is given without keys; an id is empty or not text.
        MissingExtra
            There are keys, and the extra ``sign`` is not installed.
        """
        for name, value in (("incident_id", incident_id), ("run_id", run_id)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} is of type {type(value).__name__}; expected an id as text, or None")
            if value is not None and not value.strip():
                raise ConfigError(
                    f"{name} is empty, perhaps from a variable that is not set; name the one that you expect, or leave it out"
                )
        if not isinstance(require_trusted, bool):
            raise ConfigError(f"require_trusted is {one_line(repr(require_trusted))}; expected True or False")
        if not isinstance(threshold, int) or isinstance(threshold, bool) or threshold < 1:
            raise ConfigError(f"threshold is {one_line(repr(threshold))}; expected a number of keys, at least 1")
        if trusted_keys is None:
            for name, given in (
                ("require_trusted=False", not require_trusted),
                (f"threshold={threshold}", threshold > 1),
            ):
                if given:
                    raise ConfigError(f"{name} is given without keys; name the keys that you trust, or leave it out")
            return cls(incident_id=incident_id, run_id=run_id)
        keys = tuple(load_trusted_keys(trusted_keys))
        if threshold > len(keys):
            raise ConfigError(
                f"threshold is {threshold:,}; expected at most {len(keys):,}, the number of different trusted keys; name more "
                "keys, or lower the threshold"
            )
        # Raises MissingExtra now, before a bundle passes whose signature nobody can check.
        keys[0].verifies(bytes(64), b"")
        return cls(keys, require_trusted, threshold, incident_id, run_id)

    def unmet(self, signature: SignatureCheck | None, stated: Mapping[str, Any] | None) -> Iterator[Finding]:
        """Yield the demands that a bundle does not meet.

        Parameters
        ----------
        signature : SignatureCheck or None
            None if the bundle is not signed.
        stated : mapping or None
            Its description; None if that cannot be read, which is a finding by itself.
        """
        signed = 0 if signature is None else len(signature.trusted)
        if self.trusted_keys and self.require_trusted and signed < self.threshold:
            yield Finding("not-trusted", attestation.FILE_NAME, self._expected(), _found(signature, stated))
        if stated is None:
            return
        for member, expected in (("incident_id", self.incident_id), ("run_id", self.run_id)):
            if expected is not None and stated.get(member) != expected:
                found = stated.get(member)
                yield Finding(
                    "not-expected",
                    description.PATH,
                    f"{member} {shown_name(expected)}",
                    f"no {member}" if found is None else f"{member} {shown_name(str(found))}",
                )

    def _expected(self) -> str:
        names = signer_names(self.trusted_keys, _SHOWN_NAMES)
        if len(self.trusted_keys) == 1:
            return f"a signature by {names}"
        if self.threshold == 1:
            return f"a signature by one of {len(self.trusted_keys):,} trusted keys ({names})"
        return f"signatures by {self.threshold:,} of {len(self.trusted_keys):,} trusted keys ({names})"


def signer_names(keys: Iterable[TrustedKey], most: int | None = None) -> str:
    """The names of keys; of more than `most`, the first, and how many more there are. If keys share one, ids tell them apart."""
    listed = list(keys)
    labels = Counter(key.label for key in listed)
    names = [f"{key.label} ({key.key_id[:16]}…)" if labels[key.label] > 1 else key.label for key in listed]
    more = f" and {len(names) - most:,} more" if most and len(names) > most else ""
    return ", ".join(names[:most]) + more


def _found(signature: SignatureCheck | None, stated: Mapping[str, Any] | None) -> str:
    if signature is None:
        return "no signature"
    if signature.payload is None:
        return "no signature that can be read"
    signed = len(signature.trusted)
    found = (
        f"only {signed:,}, by {signer_names(signature.trusted, _SHOWN_NAMES)}" if signed else "none by a trusted key"
    )
    if not signature.lapsed or stated is None:
        return found
    key, *others = signature.lapsed
    valid = " ".join(
        f"{word} {time_text(moment.astimezone(dt.UTC))}"
        for word, moment in (("from", key.not_before), ("until", key.not_after))
        if moment is not None
    )
    more = f", and {len(others):,} more such" if others else ""
    late = f"one by {key.label}, whose key is valid {valid}{more}"
    written = f"the bundle was written {time_text(parse_utc(stated['written_at']))} (UTC)"
    return f"{found}; {late}; {written}" if signed else f"{late}; {written}"
