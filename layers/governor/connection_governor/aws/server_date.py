"""Read the `Date` header of an answer, as RFC 9110 writes it: `Sun, 06 Nov 1994 08:49:37 GMT`."""

from __future__ import annotations

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS_BEFORE_1970 = 719_162


def date_ms(header: str) -> int | None:
    """Return its milliseconds since 1970 UTC, exact to a second; None if it is not such a date.

    Written here, because `email.utils` and `calendar` cost a cold worker 20 ms to import.
    """
    try:
        _, day, month, year, time_of_day, zone = header.split()
        hours, minutes, seconds = map(int, time_of_day.split(":"))
        days = _days(int(year), _MONTHS.index(month), int(day))
    except ValueError:
        return None
    return None if zone != "GMT" else 1_000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days)))


def _days(year: int, month: int, day: int) -> int:
    before = year - 1
    leap_days = before // 4 - before // 100 + before // 400
    leaps = month > 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return before * 365 + leap_days + _DAYS_BEFORE_MONTH[month] + leaps + day - 1 - _DAYS_BEFORE_1970
