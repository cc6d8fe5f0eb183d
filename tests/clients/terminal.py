"""Runs a command on a terminal of its own: waits for what is to be shown, types, and prints all that was shown.

    terminal.py COLUMNSxROWS [SHOWN KEYS]... -- COMMAND [ARGUMENT]...

KEYS may have escapes as in Python's strings. Nothing is typed before the command has turned off the terminal's own
line mode. It ends as the command does, or with 99 if something is not shown.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

PATIENCE_S = 60


def read(terminal, shown):
    """Adds what comes within a moment; False at the end."""
    if not select.select([terminal], [], [], 0.1)[0]:
        return True
    try:
        more = os.read(terminal, 4096)
    except OSError:
        return False
    shown.extend(more)
    return bool(more)


def main():
    split = sys.argv.index("--")
    size, *steps = sys.argv[1:split]
    command = sys.argv[split + 1:]
    columns, rows = map(int, size.split("x"))
    ready, go = os.pipe()
    child, terminal = pty.fork()
    if child == 0:
        os.read(ready, 1)
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.write(go, b"x")
    shown, seen, deadline = bytearray(), 0, time.monotonic() + PATIENCE_S
    while steps and termios.tcgetattr(terminal)[3] & termios.ICANON and time.monotonic() < deadline:
        read(terminal, shown)
    for wanted, keys in zip(steps[::2], steps[1::2]):
        wanted = wanted.encode().decode("unicode_escape").encode()
        while wanted not in shown[seen:]:
            if time.monotonic() > deadline or not read(terminal, shown):
                sys.stdout.buffer.write(shown)
                print(f"\nnot shown: {wanted!r}")
                sys.exit(99)
        seen = shown.index(wanted, seen) + len(wanted)
        os.write(terminal, keys.encode().decode("unicode_escape").encode())
    while time.monotonic() < deadline and read(terminal, shown):
        pass
    sys.stdout.buffer.write(shown)
    sys.stdout.flush()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
