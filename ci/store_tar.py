#!/usr/bin/env python3
"""Writes a store as a tar to standard output, so that GNU tar gives back every attribute.

    store_tar.py ROOT

GNU tar itself would do but for one thing: it does not see that fifos and devices are hard links of each
other, as layers have them and as overlayfs makes of its whiteouts. Same store, same bytes.
"""

import os
import stat
import sys

from layer_tars import BLOCK, CHAR, DIR, END, FIFO, FILE, LINK, SYMLINK, pax

KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCK, stat.S_IFIFO: FIFO}


def walk(path):
    yield path
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)):
            yield from walk(path + b"/" + name)


def entry(path, seen):
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    first = seen.setdefault((info.st_dev, info.st_ino), path)
    if first != path:
        return pax(path, LINK, link=first)
    data = link = b""
    if kind == FILE:
        with open(path, "rb") as file:
            data = file.read()
    elif kind == SYMLINK:
        link = os.readlink(path)
    device = (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in (CHAR, BLOCK) else (0, 0)
    seconds, nanoseconds = divmod(info.st_mtime_ns, 10**9)
    return pax(
        path,
        kind,
        data,
        link,
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)},
        records={"mtime": b"%d.%09d" % (seconds, nanoseconds)},
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime=seconds,
        device=device,
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.chdir(sys.argv[1])
    seen = {}
    for path in walk(b"."):
        sys.stdout.buffer.write(entry(path, seen))
    sys.stdout.buffer.write(END)


main()
