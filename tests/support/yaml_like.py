"""Documents for properties: of YAML's own words, so that they get past its scanner and into what is behind it."""

from hypothesis import strategies as st

_TAGS = [
    f"!!{tag}" for tag in "bool int float null str seq map set omap pairs binary timestamp merge python/none".split()
]
_SCALARS = [
    "foo",
    "5",
    "12.5",
    "010",
    "0x10",
    "1:30",
    "1_0",
    ".inf",
    ".nan",
    "2026-02-30",
    "~",
    "yes",
    "=",
    "<<",
    '"\\ud800"',
]
_NAMES = ["canary_percent", "reason", "keys", "name", "hash", "scopes", "admin", "a" * 64]
_MARKS = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ": ",
    "- ",
    "? ",
    "&a ",
    "*a ",
    "|",
    ">",
    "'",
    '"',
    "#",
    "%YAML 9",
    "---",
    "...",
    "\n",
    "\n  ",
]
_NODES = st.tuples(
    st.sampled_from(["", *_TAGS]), st.sampled_from([*_SCALARS, *_NAMES, "[]", "{}", "[foo]", "{foo: 1}"])
)


def _mapping(pairs: list[tuple[str, tuple[str, str]]]) -> str:
    return "".join(f"{name}: {tag} {scalar}\n" for name, (tag, scalar) in pairs)


DOCUMENTS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([*_TAGS, *_SCALARS, *_NAMES, *_MARKS]), max_size=20).map(
        lambda words: " ".join(words).encode()
    ),
    st.lists(st.tuples(st.sampled_from(_NAMES), _NODES), max_size=4).map(lambda pairs: _mapping(pairs).encode()),
)
"""Some make sense, most do not."""
