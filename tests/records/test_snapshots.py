"""The frozen records: each a row, immutable and inert."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import pickle
from typing import Any

import pandas as pd
import pytest

from exporttools import ConfigError, RunSnapshot
from tests.records.bundles import INCIDENT, RUN, TRACE
from tests.records.columns import COLUMNS, shown
from tests.steps import HOSTILE, Tags, a_step


@pytest.mark.parametrize("record", [INCIDENT, RUN, TRACE, a_step()], ids=lambda record: type(record).__name__)
def test_a_record_is_a_row(record: Any) -> None:
    fields = [field.name for field in dataclasses.fields(record)]
    assert record.to_dict() == dataclasses.asdict(record)
    assert list(record.to_dict()) == fields
    table = record.to_arrow()
    assert shown(table.schema) == COLUMNS[record.RECORD_TYPE.table]
    assert table.to_pylist() == [record.to_dict()]
    frame = record.to_pandas()
    assert frame.shape == (1, len(fields))
    assert list(frame.columns) == fields
    for other in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        assert other == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, fields[0], "other")
    with pytest.raises((AttributeError, TypeError)):
        record.other = 1
    assert hash(record) == hash(copy.deepcopy(record))
    assert repr(record).startswith(f"{type(record).__name__}({fields[0]}=")
    seen = Tags(record._repr_html_())
    assert seen.tags == {"table", "tbody", "tr", "th", "td"} | ({"i"} if None in record.to_dict().values() else set())
    assert all(name in seen.text for name in fields)


def test_a_records_integers_stay_integers_in_pandas() -> None:
    frame = RunSnapshot("r", "t").to_pandas()
    assert str(frame["total_cost_cents"].dtype) == "Int64"
    assert frame["total_cost_cents"][0] is pd.NA


def test_a_record_is_checked_when_it_becomes_a_row() -> None:
    with pytest.raises(ConfigError, match="started_at is datetime.datetime.*, a naive datetime"):
        RunSnapshot("r", "t", started_at=dt.datetime(2026, 1, 1)).to_arrow()
    with pytest.raises(ConfigError, match="^total_cost_cents is True; expected an int64$"):
        RunSnapshot("r", "t", total_cost_cents=True).to_pandas()


def test_hostile_text_is_inert() -> None:
    hostile = RunSnapshot(HOSTILE, HOSTILE, goal=HOSTILE * 50_000)
    assert not {"\x1b", "\u202e", "\n"} & set(repr(hostile))
    assert len(repr(hostile)) < 1200
    html = hostile._repr_html_()
    assert "script" not in Tags(html).tags
    assert len(html) < 2000
