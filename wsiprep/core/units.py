"""Numbers that turn one unit of the field into another."""

__all__ = ["MPP_AT_1X"]

MPP_AT_1X = 10.0
"""Magnification rule of the field: 10 / magnification µm/px, so 20x is 0.5 and 40x is 0.25."""
