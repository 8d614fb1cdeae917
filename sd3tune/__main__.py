"""The `sd3tune` command, also as `python -m sd3tune`: it imports nothing from the working directory
(sd3tune/start.py)."""

from sd3tune import start


def main() -> None:
    start.leave_working_directory()
    import gc

    from sd3tune import cli  # not before: it imports the standard library and click

    try:
        cli.main()
    finally:
        gc.freeze()  # Python would look at all of torch's objects again: seconds, in silence


if __name__ == "__main__":
    start.drop_first()
    main()
