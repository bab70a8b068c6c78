"""``python -m ndereg``, the same as the ``ndereg`` command."""

from ndereg.cli import main

if __name__ == "__main__":
    main()
