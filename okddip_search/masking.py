"""Secrets kept out of everything that is written or shown."""

import base64
import logging
import os
import re
from collections.abc import Iterator

_LOGIN = re.compile(r"//\S+@")
_QUERY = re.compile(
    r"([?&;][\w.-]*?(?:token|passw(?:or)?d|passphrase|pwd|secret|credential|signature|\bsig"
    r"|api_?key|access_?key|auth)=)[^\s&;#'\"]+",
    re.IGNORECASE,
)
_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN")
_SHORTEST = 4  # characters: less than that is no secret, and would be found in ordinary words

MASK = "***"


def masked(text: str) -> str:
    """Hide the secrets in a URI, or in any text that quotes one.

    Those are ``user:password@``, parameters such as ``?token=``, and what the environment holds for
    MLflow and Ray.
    """
    for secret in _secrets():
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    return _QUERY.sub(rf"\1{MASK}", _LOGIN.sub(f"//{MASK}@", text))


def _secrets() -> Iterator[str]:
    yield from (os.environ.get(name, "") for name in _VARIABLES)
    if password := os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        login = f"{os.environ.get('MLFLOW_TRACKING_USERNAME', '')}:{password}"
        yield base64.b64encode(login.encode()).decode()  # as it stands in a request's header


class MaskedFormatter(logging.Formatter):
    """Hides secrets in log lines and tracebacks, whichever library wrote them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets."""
        return masked(super().format(record))
