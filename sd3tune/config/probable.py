"""What a number probably means that is too large to be meant: pure functions of one number.

Each answers with the number as text, or None where nothing suggests itself.
"""


def other_sign(value: float) -> str | None:
    """1e4 for 1e-4: the exponent with a minus."""
    if value < 1:
        return None
    digits, _, exponent = f"{value:.6e}".partition("e")
    power = int(exponent)
    if power < 1:
        return None
    return f"{digits.rstrip('0').rstrip('.')}e-{power}"


def behind_the_point(value: float) -> str | None:
    """9.999 and 999 for 0.999: the same digits behind the decimal point."""
    digits = f"{value:.15g}".replace(".", "").rstrip("0")
    likely = digits.isdigit() and (len(digits) > 1 or digits == "9")
    return f"0.{digits}" if value >= 1 and likely else None


def percent(value: float) -> str | None:
    """10 for 0.1: a percentage."""
    return f"{value / 100:g}" if 1 < value <= 100 else None
