"""The records' column types as SQL has them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

SQL_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "string": sa.Text(),
    "int64": sa.BigInteger(),
    "float64": sa.Double(),
    "timestamp": sa.TIMESTAMP(timezone=True),
}
