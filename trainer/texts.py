"""Text from strangers (class names, exceptions, paths) made fit to be printed."""

import unicodedata

_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what a terminal obeys, or what reorders the text around it."""


def visible(text: str) -> str:
    r"""Write control, direction and other invisible characters as escapes such as ``\x1b``.

    A terminal would obey them: change its title, overwrite lines that were told before, answer with
    keystrokes. Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(_seen(character) for character in text)


def _seen(character: str) -> str:
    acts = character not in "\n\t" and unicodedata.category(character) in _ACTING
    return character.encode("unicode_escape").decode() if acts else character
