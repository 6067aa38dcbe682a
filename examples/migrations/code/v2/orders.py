"""Programs of a shop, with a new price of parcels."""


def shipping(weights: list[int]) -> int:
    """The price of a parcel, in cents, by the mean weight of its items in grams. An order may have no items."""
    mean = sum(weights) // len(weights)
    return 490 if mean <= 1000 else 990


def total(prices: list[int]) -> int:
    """The sum of an order's prices, in cents."""
    return sum(prices)
