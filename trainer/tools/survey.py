"""The images of a data set counted for those who must not import torch; none is opened.

``python -m trainer.tools.survey`` reads the fields of a ``DataConfig`` as JSON on standard input,
and writes a survey, and the same in ``words``, on standard output; or an ``error``.
"""

import json
import sys

from trainer.config.data import DataConfig
from trainer.data.images import DataError
from trainer.data.survey import describe, survey


def main() -> None:
    """Answer for the data set on standard input."""
    try:
        found = survey(DataConfig(**json.load(sys.stdin)))
    except DataError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({**found, "words": describe(found)}))


if __name__ == "__main__":
    main()
