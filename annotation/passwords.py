"""Passwords: which ones are taken, and how they are kept. Argon2id (RFC 9106), with its parameters in each hash."""

from __future__ import annotations

import base64
import secrets
import unicodedata

import argon2

from annotation.records import AnnotationError

SHORTEST = 12
LONGEST = 1024
# Of 12 characters and more, what people take when they are asked for 12; the shorter ones are too short anyway.
COMMON = frozenset(
    "password passwort motdepasse contrasena passwordpassword passw0rd p@ssword p@ssw0rd qwerty qwertyuiop qwertz "
    "qwertzuiop azertyuiop asdfghjkl qwertyuiopasdfghjkl letmein letmeinplease letmeinnow iloveyou welcome admin "
    "administrator changeme changemenow changeit secret topsecret default trustno unlockme abcdefghijkl abcdefghijklm "
    "abcdefghijklmnopqrstuvwxyz qazwsx qazwsxedc qazwsxedcrfv zaqxswcde test testtest testtesttest "
    "annotation annotate annotator correcthorsebatterystaple".split()
)
DIGITS = "0123456789" * 103


class InvalidPassword(AnnotationError):
    """A password that is too easy to guess, or too long."""


class Passwords:
    """Hashes and verifies passwords.

    Args:
        time_cost: passes over the memory.
        memory_kib: of one hash, in KiB.
        parallelism: threads of one hash.

    The defaults are the second choice of RFC 9106, for machines that do other things too.
    """

    def __init__(self, *, time_cost: int = 3, memory_kib: int = 65536, parallelism: int = 4):
        self._hasher = argon2.PasswordHasher(time_cost, memory_kib, parallelism)
        self._nobody = _hash_of_nothing(time_cost, memory_kib, parallelism)

    def hash(self, password: str) -> str:
        """What to keep of a password; another one each time."""
        return self._hasher.hash(_encoded(password))

    def verify(self, kept: str | None, password: str) -> bool:
        """Whether it is the password of a hash. Where there is no hash it takes as long, and is not."""
        try:
            return self._hasher.verify(kept or self._nobody, _encoded(password))
        except argon2.exceptions.VerificationError:
            return False

    def is_outdated(self, kept: str) -> bool:
        """Whether a hash was made with other parameters than these."""
        return self._hasher.check_needs_rehash(kept)


def check_password(password: str, name: str) -> None:
    """Long is what counts; there are no rules about kinds of characters (NIST SP 800-63B).

    Raises:
        InvalidPassword: it is shorter than `SHORTEST` or longer than `LONGEST` characters, made of the name, of one
            or two characters, of counting, or of one of the most common words.
    """
    plain = _normal(password).casefold()
    if not SHORTEST <= len(plain) <= LONGEST:
        hint = "some words that only you would put together are easy to keep in mind"
        raise InvalidPassword(f"the password must have {SHORTEST} to {LONGEST} characters; {hint}")
    own = _normal(name).casefold().replace(" ", "")
    rest = plain.replace(" ", "")
    if own and own in rest and not rest.replace(own, "").strip("0123456789!?.-_"):
        raise InvalidPassword("the password is the name itself; choose another one")
    letters = "".join(character for character in rest if character.isalpha() or character in "@0")
    if len(set(rest)) <= 2 or rest in DIGITS or rest in DIGITS[::-1] or {rest, letters.rstrip("0")} & COMMON:
        raise InvalidPassword("the password is one that is tried first; choose another one")


def _normal(password: str) -> str:
    """One text for what looks the same, whatever the keyboard sends."""
    return unicodedata.normalize("NFKC", password)


def _encoded(password: str) -> bytes:
    return _normal(password).encode("utf-8", "surrogatepass")


def _hash_of_nothing(time_cost: int, memory_kib: int, parallelism: int) -> str:
    """A hash that no password has, of the same parameters."""
    salt, value = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={memory_kib},t={time_cost},p={parallelism}${salt}${value}"
