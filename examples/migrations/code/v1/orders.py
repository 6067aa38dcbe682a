"""Programs of a shop, as they are."""


def shipping(weights: list[int]) -> int:
    """The price of a parcel, in cents, by the weights of its items in grams."""
    return 490 if sum(weights) <= 5000 else 990


def total(prices: list[int]) -> int:
    """The sum of an order's prices, in cents."""
    return sum(prices)
