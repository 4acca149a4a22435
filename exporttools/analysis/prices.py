"""What a call of a model costs by the prices of its day, from the data of ``genai-prices`` (extra ``prices``). No network.

Rules that keep the bill right: a call is priced at its own time, since prices change; writes to a cache for an hour cost
more than those for five minutes; a tier is priced by its own prices, or not at all; and where prices rise above a number
of input tokens, the whole call has the higher ones.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from exporttools.errors import MissingExtra
from exporttools.times import DAY_US, EARLIEST, EPOCH, LATEST, epoch_us, from_epoch_us

if TYPE_CHECKING:
    from exporttools.analysis.groups import Floats, Integers

_PROBE = 1_000_000
"""Tokens of a probe: enough for every price to be exact, and above no threshold unless one is meant."""

_EARLIEST_US, _LATEST_US = epoch_us(EARLIEST), epoch_us(LATEST)

_CONTEXTS = ("service_tier", "speed", "processing")
"""What a tier may be called in the data."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a call costs.

    Attributes
    ----------
    cost_cents : float
        In US cents.
    basis : str
        Which prices: the library with its version, the model as it knows it, and the tier.
    """

    cost_cents: float
    basis: str


@dataclass(frozen=True, slots=True)
class _Rates:
    """US cents for a call by itself, and for one token of each kind."""

    call: Decimal
    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal

    @property
    def tokens(self) -> tuple[Decimal, ...]:
        """Those of tokens, in the order of :func:`_apart`."""
        return self.input, self.output, self.cache_read, self.cache_write, self.cache_write_1h

    def cents(self, apart: Integers) -> Floats:
        """What calls cost, of whose tokens each kind is a row: rounded once, as :meth:`PriceList.price` rounds."""
        if not apart.size:
            return np.zeros(apart.shape[1])
        rates = (self.call, *self.tokens)
        digits = max(0, *(-int(rate.normalize().as_tuple().exponent) for rate in rates))
        call, *whole = (int(rate.scaleb(digits)) for rate in rates)
        most = abs(call) + sum(
            rate * most for rate, most in zip(whole, np.abs(apart).max(axis=1).tolist(), strict=True)
        )
        # A quotient of two integers that floats hold exactly is rounded once. Powers of ten are held up to the 22nd.
        if digits <= 22 and most < 2**53:
            cents: Floats = (np.array(whole, np.int64) @ apart + call) / 10.0**digits
            return cents
        costs = (
            self.call + sum(n * rate for n, rate in zip(row, self.tokens, strict=True)) for row in apart.T.tolist()
        )
        return np.array([float(cost) for cost in costs])


@dataclass(frozen=True, slots=True)
class _Bands:
    """The prices of a token by how many there are in the input: from which number on a band of them begins."""

    prices: Any
    starts: list[int]
    rates: dict[int, _Rates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was looked up in one version of the data. `bands` holds on to the prices whose identities are its keys."""

    snapshot: Any
    models: dict[tuple[str, str | None], Any] = field(default_factory=dict)
    bands: dict[object, _Bands] = field(default_factory=dict)


class PriceList:
    """The prices of models, of today and of before.

    Raises
    ------
    MissingExtra
        ``genai-prices`` is not installed.

    Examples
    --------
    >>> prices = PriceList()
    >>> may = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    >>> prices.price("claude-opus-4-6", may, provider="anthropic", input_tokens=1_000_000, output_tokens=0).cost_cents
    500.0
    >>> prices.price("no such model", may, input_tokens=1, output_tokens=1) is None
    True
    """

    _known: ClassVar[_Known | None] = None

    def __init__(self) -> None:
        try:
            from genai_prices import Usage, data_snapshot
        except ImportError as error:
            raise MissingExtra("prices", "pricing calls") from error
        self._usage = Usage
        self._version = version("genai-prices")
        snapshot = data_snapshot.get_snapshot()
        if PriceList._known is None or PriceList._known.snapshot is not snapshot:
            PriceList._known = _Known(snapshot)
        self._found = PriceList._known

    def price(
        self,
        model: str,
        at: dt.datetime,
        *,
        provider: str | None = None,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        tier: str | None = None,
    ) -> Price | None:
        """Price a call.

        Parameters
        ----------
        model : str
        at : datetime.datetime
            When the call was made.
        provider : str, optional
            ``anthropic``, ``openai``, ``google``, ...; by default the one whose model it looks like.
        input_tokens, output_tokens : int
            Caches and reasoning included.
        cache_read_tokens, cache_write_tokens, cache_write_1h_tokens : int
            Parts of the input; the last is a part of the one before.
        tier : str, optional
            ``priority``, ``flex``, ``fast``, ``batch``, ...; by default the standard.

        Returns
        -------
        Price or None
            None if the model, or that tier of it, has no known price.
        """
        found = self._model(model, provider)
        if found is None:
            return None
        context = None if tier is None else _context(found, tier, at)
        if tier is not None and context is None:
            return None
        rates = self._rates_of(found.get_prices(at, context), input_tokens, is_standard=context is None)
        usage = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens)
        cents = rates.call + sum(count * rate for count, rate in zip(_apart(*usage), rates.tokens, strict=True))
        return Price(float(cents), f"genai-prices {self._version}, {found.id}" + (f", {tier}" if tier else ""))

    def price_calls(
        self,
        model: str,
        at_us: Integers,
        *,
        provider: str | None = None,
        input_tokens: Integers,
        output_tokens: Integers,
        cache_read_tokens: Integers,
        cache_write_tokens: Integers,
        cache_write_1h_tokens: Integers,
        tier: str | None = None,
    ) -> Floats | None:
        """Price many calls of a model at once, each to the same digit as :meth:`price`.

        Parameters
        ----------
        model, provider, tier
            As there.
        at_us : array of int64
            When each call was made, in microseconds since 1970-01-01 UTC.
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens : array of int64
            Of each call.

        Returns
        -------
        array of float64 or None
            US cents; NaN where that tier had no known price. None if the model is unknown.
        """
        found = self._model(model, provider)
        if found is None:
            return None
        usage = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens)
        apart = np.stack(np.broadcast_arrays(*_apart(*usage))) if len(at_us) else np.zeros((5, 0), np.int64)
        cents = np.full(len(at_us), np.nan)
        changes = _changes_us(found)
        part = np.searchsorted(changes, at_us % DAY_US, side="right") - 1
        moments, moment_of = np.unique(at_us // DAY_US * DAY_US + changes[part], return_inverse=True)
        bands: dict[int, tuple[_Bands, list[int]]] = {}
        for number, moment in enumerate(moments.tolist()):
            at = from_epoch_us(min(max(moment, _EARLIEST_US), _LATEST_US))
            context = None if tier is None else _context(found, tier, at)
            if tier is None or context is not None:
                of_moment = self._bands_of(found.get_prices(at, context), is_standard=context is None)
                bands.setdefault(id(of_moment), (of_moment, []))[1].append(number)
        for priced, numbers in bands.values():
            is_then = np.zeros(len(moments), np.bool_)
            is_then[numbers] = True
            then = np.flatnonzero(is_then[moment_of])
            band_of = np.searchsorted(priced.starts, input_tokens[then], side="left")
            for band in np.unique(band_of).tolist():
                rows = then[band_of == band]
                cents[rows] = self._rates_in(priced, band).cents(apart[:, rows])
        return cents

    @property
    def tiers(self) -> frozenset[str]:
        """What tiers are called, of any model."""
        variants = (v for p in self._found.snapshot.providers for m in p.models for v in m.price_variants or ())
        return frozenset(
            variant.when[name] for variant in variants for name in _CONTEXTS if set(variant.when) == {name}
        )

    def _model(self, model: str, provider: str | None) -> Any:
        models = self._found.models
        if (model, provider) not in models:
            models[model, provider] = self._find(model, provider)
        return models[model, provider]

    def _find(self, model: str, provider: str | None) -> Any:
        prefix, slash, name = model.partition("/")
        for reference, by in ((model, provider), (name, prefix), (name, provider)) if slash else ((model, provider),):
            try:
                return self._found.snapshot.find_provider_model(reference, None, by, None)[1]
            except LookupError:
                continue
        return None

    def _rates_of(self, prices: Any, input_tokens: int, *, is_standard: bool) -> _Rates:
        """The prices of a token where there are that many in the input. The library's own take 200 µs a call."""
        bands = self._bands_of(prices, is_standard=is_standard)
        return self._rates_in(bands, bisect_left(bands.starts, input_tokens))

    def _bands_of(self, prices: Any, *, is_standard: bool) -> _Bands:
        # A tier's prices are put together anew each time, out of the same objects.
        key = id(prices) if is_standard else (*vars(prices), *map(id, vars(prices).values()))
        known = self._found.bands.get(key)
        if known is None:
            starts = sorted(
                {tier.start for price in vars(prices).values() for tier in getattr(price, "tiers", None) or ()}
            )
            known = self._found.bands[key] = _Bands(prices, starts)
        return known

    def _rates_in(self, bands: _Bands, band: int) -> _Rates:
        if band not in bands.rates:
            bands.rates[band] = self._probed(bands.prices, bands.starts, band)
        return bands.rates[band]

    def _probed(self, prices: Any, starts: list[int], band: int) -> _Rates:
        """Ask the library for the price of calls of one kind of token in a band of input tokens."""
        n = starts[band] if band < len(starts) else max([_PROBE, *(2 * start for start in starts)])

        def cents(input_tokens: int, **usage: int) -> Decimal:
            total: Decimal = prices.calc_price(self._usage(input_tokens=input_tokens, **usage))["total_price"]
            return total * 100

        call = cents(0, output_tokens=0)

        def per_token(**usage: int) -> Decimal:
            return (cents(n, **usage) - call) / n

        plain = per_token(output_tokens=0)
        return _Rates(
            call=call,
            input=plain,
            output=per_token(output_tokens=n) - plain,
            cache_read=per_token(cache_read_tokens=n),
            cache_write=per_token(cache_write_tokens=n),
            cache_write_1h=per_token(cache_write_tokens=n, cache_write_1h_tokens=n),
        )


def _apart(
    input_tokens: Any, output_tokens: Any, cache_read: Any, cache_write: Any, cache_write_1h: Any
) -> tuple[Any, ...]:
    """Tokens as they are priced, none of them a part of another: plain input, output, read, written for 5 minutes, for an hour."""
    plain = input_tokens - cache_read - cache_write
    return plain, output_tokens, cache_read, cache_write - cache_write_1h, cache_write_1h


def _changes_us(model: Any) -> Integers:
    """When within a day (UTC, in microseconds) a model's price may change: at its beginning, and at hours of some models."""
    variants = [variant.constraint for variant in model.price_variants or ()]
    prices = [price.constraint for price in model.prices] if isinstance(model.prices, list) else []
    times = [
        getattr(constraint, end, None) for constraint in (*variants, *prices) for end in ("start_time", "end_time")
    ]
    moments = [dt.datetime.combine(EPOCH, time, time.tzinfo or dt.UTC) for time in times if time is not None]
    return np.unique([0, *(epoch_us(moment) % DAY_US for moment in moments)])


def _context(model: Any, tier: str, at: dt.datetime) -> dict[str, str] | None:
    """What the library calls a tier; None if the model has no price for it at that time."""
    for variant in model.price_variants or ():
        if variant.constraint is None or variant.constraint.active(at):
            for name in _CONTEXTS:
                if variant.when == {name: tier}:
                    return {name: tier}
    return None
