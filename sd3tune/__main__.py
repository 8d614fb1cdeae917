"""The `sd3tune` command, also as `python -m sd3tune`: it imports nothing from the working directory
(sd3tune/start.py)."""

from sd3tune import start


def main() -> None:
    start.leave_working_directory()
    start.limit_spinning()
    import gc

    from sd3tune import garbage

    garbage.look_seldom()
    try:
        from sd3tune import cli  # not before: it imports the standard library and click
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        if package in ("", start.PACKAGE):
            raise
        words = f"the package {package} cannot be imported: {type(e).__name__}: {e}"
        hint = f"pip install {package}, or bash scripts/setup"
        raise SystemExit(f"error: {words}\nhint: {hint}") from None

    try:
        cli.main()
    finally:
        gc.freeze()  # Python would look at all of torch's objects again: seconds, in silence


if __name__ == "__main__":
    start.drop_first()
    main()
