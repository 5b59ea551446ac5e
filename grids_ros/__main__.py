"""python -m grids_ros COMMAND: the same as `grids COMMAND`."""

from grids_ros.interruption import UNREAD, end, leave_when_interrupted, unread


def main() -> None:
    """Entry point of both. Ends the process."""
    leave_when_interrupted()
    from grids_ros import cli  # this import takes long enough to be interrupted

    try:
        code = cli.main()
    except BrokenPipeError:
        if not unread():
            raise
        code = UNREAD
    except SystemExit as ended:  # of --help and of options that cannot be used
        if ended.code or not unread():
            raise
        code = UNREAD
    end(code)


if __name__ == "__main__":
    main()
