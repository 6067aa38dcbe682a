"""The console's login: cookies that nobody else can make, change or prolong, and the limit on attempts."""

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from app.console.login import LIFETIME_S, MAX_FAILURES, LoginCookies, LoginLimit
from store.secret_box import SecretBox

OLD, NEW = Fernet.generate_key(), Fernet.generate_key()
NOW = 1_000_000.0
COOKIE = LoginCookies([NEW], lambda: NOW).issue("abc")
"""One for all examples: each has random letters, and Hypothesis repeats an example by its draws."""


def cookies(*secrets: bytes, now: float = NOW) -> LoginCookies:
    return LoginCookies(secrets, lambda: now)


@given(st.text(max_size=80))
def test_no_text_is_a_cookie(text: str) -> None:
    assert cookies(NEW, OLD).read(text) is None


@given(st.data())
def test_a_changed_cookie_is_refused(data: st.DataObject) -> None:
    """Whichever letter is another one; a letter cut off or put behind changes the length and is refused too."""
    cookie = COOKIE
    letter = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    place = data.draw(st.integers(0, len(cookie) - 2))  # of the last letter, some bits say nothing
    other = data.draw(letter.filter(lambda one: one != cookie[place]))
    assert cookies(NEW).read(cookie[:place] + other + cookie[place + 1 :]) is None
    assert cookies(NEW).read(cookie[:-1]) is None
    assert cookies(NEW).read(cookie + other) is None


def test_a_cookie_needs_no_quotes_and_names_no_key_in_the_clear() -> None:
    cookie = cookies(NEW).issue("the-id-of-a-key")
    assert set(cookie) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert cookies(NEW).read(cookie) == "the-id-of-a-key"
    assert cookies(NEW).issue("the-id-of-a-key") != cookie


@pytest.mark.parametrize(("later_s", "is_read"), [(0, True), (LIFETIME_S, True), (LIFETIME_S + 1, False)])
def test_a_cookie_ends_after_its_lifetime(later_s: int, *, is_read: bool) -> None:
    found = cookies(NEW, now=NOW + later_s).read(cookies(NEW).issue("abc"))
    assert found == ("abc" if is_read else None)


def test_a_cookie_outlives_the_rotation_of_its_secret() -> None:
    """Until the old secret is taken away; a new cookie is of the new secret alone."""
    before, after = cookies(OLD).issue("abc"), cookies(NEW, OLD).issue("abc")
    assert cookies(NEW, OLD).read(before) == "abc"
    assert cookies(NEW).read(before) is None
    assert cookies(NEW).read(after) == "abc"
    assert cookies(OLD).read(after) is None


def test_an_encrypted_lm_key_is_no_cookie() -> None:
    """The secrets of `SECRET_KEY_FILE` encrypt both: a row of the database must not open the console."""
    assert cookies(NEW).read(SecretBox([NEW]).encrypt("abc").rstrip("=")) is None


def test_an_address_waits_after_its_failures_and_not_for_others() -> None:
    now = [0.0]
    limit = LoginLimit(lambda: now[0])
    for _ in range(MAX_FAILURES):
        assert limit.wait_s("a") == 0
        limit.failed("a")
    assert limit.wait_s("a") > 0
    assert limit.wait_s("b") == 0
    now[0] = 61
    assert limit.wait_s("a") == 0
    for number in range(5000):
        limit.failed(str(number))
    assert len(limit._failures) <= 1024
