"""Text from a program, whatever is in it, as it can leave the worker."""


def sendable(text: str, max_length: int) -> str:
    r"""At most `max_length` characters of `text`, an ellipsis where there were more, and valid Unicode.

    A lone surrogate, which has no JSON, becomes its escape (`\ud800`).
    """
    if len(text) > max_length:
        text = text[:max_length] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
