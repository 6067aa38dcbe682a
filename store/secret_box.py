"""Encrypts what the database is not to hold in the clear, by the keys in `SECRET_KEY_FILE`."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class CannotDecrypt(Exception):
    """None of the keys has encrypted this."""


class SecretBox:
    """A set of keys: the first one encrypts, all of them decrypt, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._newest = Fernet(keys[0])

    def encrypt(self, secret: str) -> str:
        """Encrypts with the first key."""
        return self._fernet.encrypt(secret.encode()).decode()

    def decrypt(self, token: str) -> str:
        """Decrypts with whichever key fits.

        Raises:
            CannotDecrypt: none does.
        """
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken:
            raise CannotDecrypt from None

    def is_newest(self, token: str) -> bool:
        """Tells if the first key has encrypted this."""
        try:
            self._newest.decrypt(token.encode())
        except InvalidToken:
            return False
        return True
