"""Text from strangers (class names, exceptions, paths) made fit to be printed."""

import unicodedata

_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what a terminal obeys, or what reorders the text around it."""


def visible(text: str) -> str:
    r"""Write control, direction and other invisible characters as escapes such as ``\x1b``.

    A terminal would obey them: change its title, overwrite earlier lines, answer with
    keystrokes. Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(_seen(character) for character in text)


def _seen(character: str) -> str:
    acts = character not in "\n\t" and unicodedata.category(character) in _ACTING
    return character.encode("unicode_escape").decode() if acts else character


def is_plain(text: str, *, but: str = "") -> bool:
    """Say whether a text has no control characters, except ``but``, and no lone surrogates."""
    if text.isprintable():
        return True
    return all(c in but or unicodedata.category(c) not in ("Cc", "Cs") for c in text)


def printable(text: object) -> str:
    """Return a name, for instance of a file, for one line of a message."""
    return visible(str(text)).replace("\n", r"\n").replace("\t", r"\t")


def truncate(value: object, most: int = 80) -> str:
    """Return a value for a message: on one line, a long one truncated.

    Args:
        value: A text, or anything else, of which ``repr`` is taken.
        most: Longest result, in characters.
    """
    text = printable(value if isinstance(value, str) else repr(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"
