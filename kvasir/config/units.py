"""Numbers as people write them: 32k, 1M, 4GiB; and bytes as people read them."""

import re

_NUMBER = re.compile(r"^\s*([+-]?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")

# Lower case counts in thousands, upper case in powers of two, as the flags of other engines do.
_SUFFIXES = {"": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SUFFIXES[_letter] = 1000**_power
    _SUFFIXES[_letter.upper()] = 1024**_power
    _SUFFIXES[_letter.upper() + "iB"] = 1024**_power
    _SUFFIXES[_letter.upper() + "B"] = 1000**_power
_SUFFIXES["kB"] = 1000


def parse_count(text: str) -> int:
    """`"32k"` -> 32000, `"32K"` -> 32768, `"4GiB"` -> 4294967296.

    Raises:
        ValueError: no number, an unknown suffix, or a fraction of one.
    """
    match = _NUMBER.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number")
    digits, suffix = match.groups()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{text!r} has an unknown suffix {suffix!r}; known are k, K, m, M, g, G, KiB, MiB, GiB")
    value = float(digits) * _SUFFIXES[suffix] if "." in digits else int(digits) * _SUFFIXES[suffix]
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def format_bytes(count: int) -> str:
    """`4294967296` -> `"4.00 GiB"`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
