"""`python -m sd3tune`: the same as the `sd3tune` command."""

from sd3tune.cli import main

if __name__ == "__main__":
    main()
