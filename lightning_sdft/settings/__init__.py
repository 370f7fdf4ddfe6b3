"""What settings may be: the ranges of numbers, which stand beside the arguments that they belong to."""

from lightning_sdft.settings.ranges import (
    Count,
    Fraction,
    LossTemperature,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Range,
    Seed,
    Share,
    Temperature,
    check_ranges,
    ranges,
)

__all__ = [
    "Count",
    "Fraction",
    "LossTemperature",
    "Natural",
    "NonNegative",
    "Positive",
    "PositiveShare",
    "Range",
    "Seed",
    "Share",
    "Temperature",
    "check_ranges",
    "ranges",
]
