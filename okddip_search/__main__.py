"""``python -m okddip_search``: the command, where its script is not on the path."""

from okddip_search.cli.main import main

if __name__ == "__main__":
    main()
