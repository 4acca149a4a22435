"""All files together: which copy of a step counts, which session it belongs to, and what became of every record.

The answer does not depend on the order in which the files were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from exporttools.importing.events import Fate, Session, Step
from exporttools.importing.file_reading import FORMATS, FileRead, merged, take_greatest_usage


@dataclass(slots=True)
class SessionSteps:
    """A session with the steps that are its own.

    Attributes
    ----------
    session : Session
    format : str
        The format's name.
    steps : list of Step
        In their order, parents before what is part of them.
    parents : list of int or None
        For each step the position of the step that it is part of.
    is_fork : bool
        Whether some of what its files hold belongs to another session.
    family_ended_us : int
        When the last of the sessions ended that were resolved together with it: those that may share steps with it.
    """

    session: Session
    format: str
    steps: list[Step] = field(default_factory=list)
    parents: list[int | None] = field(default_factory=list)
    is_fork: bool = False
    family_ended_us: int = field(default=0, compare=False)


@dataclass(slots=True)
class Resolved:
    """What an import has found.

    Attributes
    ----------
    files : list of FileRead
        With the fate of each record.
    sessions : list of SessionSteps
        By their start, then by id.
    lost_agents : list of str
        The subagents that steps have started and of which no file has a step: what they cost is not known.
    """

    files: list[FileRead]
    sessions: list[SessionSteps]
    lost_agents: list[str]

    @property
    def calls(self) -> int:
        """How many steps say what they have used."""
        return sum(step.usage is not None for session in self.sessions for step in session.steps)


def resolve(files: Iterable[FileRead]) -> Resolved:
    """Decide what counts. The files are changed: their records get their fates, and their steps what copies add to them."""
    files = sorted(files, key=lambda read: str(read.source.path))
    _leave_out_conversions(files)
    sessions = _sessions(files)
    owners = _owners(files, sessions)
    _settle_steps(files, owners, sessions)
    _settle_ends(files, owners)
    lost = _find_parents(files, owners)
    for step in owners.values():
        sessions[step.session_id].steps.append(step)
    for session in sessions.values():
        _put_in_order(session)
    by_start = sorted(sessions.values(), key=lambda s: (s.session.started_us or 0, s.session.session_id))
    return Resolved(files, by_start, lost)


def _leave_out_conversions(files: list[FileRead]) -> None:
    """Of sessions that are there in their own format and converted as well, only the former counts."""
    own = {session_id for read in files if not FORMATS[read.format].is_exchange for session_id in read.sessions}
    for read in files:
        if not FORMATS[read.format].is_exchange:
            continue
        for session_id in own & read.sessions.keys():
            del read.sessions[session_id]
            read.steps = {key: step for key, step in read.steps.items() if step.session_id != session_id}
            read.notes = {(_CONVERTED, session_id): 1}


_CONVERTED = "sessions that are here in their own format too, whose conversion is not counted"


def _sessions(files: list[FileRead]) -> dict[str, SessionSteps]:
    sessions: dict[str, SessionSteps] = {}
    for read in files:
        for session_id, session in read.sessions.items():
            known = sessions.get(session_id)
            if known is None:
                sessions[session_id] = SessionSteps(session, read.format)
            else:
                known.session = merged(known.session, session)
    return sessions


def _owners(files: list[FileRead], sessions: dict[str, SessionSteps]) -> dict[str, Step]:
    """Of the copies of each step the one that counts, with the greatest usage of them all.

    A step of the main thread goes before one of a subagent's, and that before copies known as such; then the session that
    ended first, since a fork goes on after what it has copied; then the earlier one; and of one session's, the one that went
    on longest, since the others are of older copies of its file.
    """

    def order(step: Step) -> tuple[int, int, int, str, int, int]:
        ended_us = sessions[step.session_id].session.ended_us
        return step.rank, ended_us or 0, step.start_us, step.session_id, -(step.end_us or 0), step.record

    owners: dict[str, Step] = {}
    for read in files:
        for key, step in read.steps.items():
            known = owners.get(key)
            if known is None:
                owners[key] = step
                continue
            owner, copy = (step, known) if order(step) < order(known) else (known, step)
            take_greatest_usage(owner, copy)
            owners[key] = owner
    return owners


def _settle_steps(files: list[FileRead], owners: dict[str, Step], sessions: dict[str, SessionSteps]) -> None:
    """Give the records that count their fate, and note which sessions hold what is another's."""
    for read in files:
        for key, step in read.steps.items():
            owner = owners[key]
            if owner is step:
                read.fate(step.record, Fate.COUNTED)
            elif owner.session_id != step.session_id:
                sessions[step.session_id].is_fork = True


def _settle_ends(files: list[FileRead], owners: dict[str, Step]) -> None:
    """Give each step its end, from its own file if that has one, and the records of ends their fate."""
    ended: set[str] = set()
    for own in (True, False):
        for read in files:
            for key, end in read.ends.items():
                step_or_none = owners.get(key)
                if step_or_none is None or (read.steps.get(key) is step_or_none) is not own:
                    continue
                if key in ended:
                    read.fate(end.record, Fate.COPY)
                    continue
                ended.add(key)
                read.fate(end.record, Fate.COUNTED)
                step_or_none.end_us = end.end_us if end.end_us is not None else step_or_none.end_us
                step_or_none.status = end.status or step_or_none.status
                step_or_none.error = end.error or step_or_none.error


def _find_parents(files: list[FileRead], owners: dict[str, Step]) -> list[str]:
    """Make subagents' steps part of the step that has started them. Returns the subagents without any.

    Names of subagents are short, and may come again in another session; what is said in their own goes first.
    """
    started: dict[tuple[str | None, str], str] = {}
    for read in files:
        for agent, key in read.started.items():
            owner = owners.get(key)
            if owner is not None:
                started.setdefault((owner.session_id, agent), key)
                started.setdefault((None, agent), key)
    agents: set[str] = set()
    for step in owners.values():
        if step.agent is not None:
            names = step.agent, step.agent.partition("/")[0]
            agents.update(names)
            if step.parent is None:
                places = ((session_id, name) for session_id in (step.session_id, None) for name in names)
                step.parent = next((started[place] for place in places if place in started), None)
    return sorted(agent for session_id, agent in started if session_id is None and agent not in agents)


def _put_in_order(session: SessionSteps) -> None:
    """Sort the steps by when they started, and what is part of a step behind it, whatever the clocks say."""
    own = {step.key: step for step in session.steps}
    places: dict[str, tuple[int, int]] = {}

    def place(step: Step) -> tuple[int, int]:
        """When the step can have started, and how deep it is. Whatever would be part of itself is part of nothing."""
        chain, seen = [], set()
        while step.key not in places and step.key not in seen:
            seen.add(step.key)
            chain.append(step)
            parent = own.get(step.parent) if step.parent is not None else None
            if parent is None or parent.key in seen:
                step.parent = None
                break
            step = parent
        above = places.get(step.key, (0, -1)) if step.key not in seen else (0, -1)
        for link in reversed(chain):
            above = places[link.key] = (max(link.start_us, above[0]), above[1] + 1)
        return above

    for step in session.steps:
        above = None if step.parent is None else places.get(step.parent)
        if above is not None:  # nearly always: parents mostly come first
            places[step.key] = max(step.start_us, above[0]), above[1] + 1
        else:
            place(step)
    session.steps.sort(
        key=lambda s: (*places[s.key], s.agent is not None, s.agent or "", s.record, s.step_type != "llm_call", s.key)
    )
    index = {step.key: i for i, step in enumerate(session.steps)}
    session.parents = [None if step.parent is None else index[step.parent] for step in session.steps]
