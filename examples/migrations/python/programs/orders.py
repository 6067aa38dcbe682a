"""Programs of a shop."""


def total(prices: list[int], discount_percent: int) -> int:
    """The sum of an order's prices, in cents, after the discount."""
    return sum(prices) * (100 - discount_percent) // 100
