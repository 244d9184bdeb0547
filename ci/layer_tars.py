#!/usr/bin/env python3
"""Writes images whose layer tars are made by hand, as a directory that `tar -c | docker load` takes.

    layer_tars.py tiny BUSYBOX DIR     alpine:3.4 (a stand-in: only busybox), nasty:1, nasty:2
    layer_tars.py linked BUSYBOX DIR   linked:1, with hard links into a lower layer
    layer_tars.py big MEGABYTES DIR    big:1, one layer, half of it compressible

The nasty layers hold whatever a layer may hold that Docker accepts, in every dialect of tar. tarfile
writes no V7, no chosen ustar prefix and no tar without an end, so headers are put together here. Left out
is what Docker refuses: a path twice in one layer, and, with most drivers, a hard link into a lower layer.
"""

import hashlib
import json
import platform
import random
import struct
import sys
from pathlib import Path

FILE, LINK, SYMLINK, CHAR, BLOCK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
V7, USTAR, GNU = bytes(8), b"ustar\x0000", b"ustar  \0"
TIME = 1488573141  # 2017-03-03T20:32:21Z
END = bytes(1024)
MIB = 1 << 20


# --- tar, one function per dialect -------------------------------------------------------------------


def number(value, width):
    """Octal, or base-256 (GNU) where octal digits do not suffice."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    coded = bytearray(value.to_bytes(width, "big", signed=True))
    coded[0] |= 0x80
    return bytes(coded)


def padded(data):
    return data + bytes(-len(data) % 512)


def header(name, kind=FILE, size=0, mode=None, uid=0, gid=0, mtime=TIME, link=b"", device=(0, 0), magic=USTAR, prefix=b""):
    assert len(name) <= 100 and len(link) <= 100 and len(prefix) <= 155, name
    if mode is None:
        mode = 0o755 if kind == DIR else 0o777 if kind == SYMLINK else 0o644
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        name, number(mode, 8), number(uid, 8), number(gid, 8), number(size, 12), number(mtime, 12), b" " * 8,
        kind, link, magic, *([b"", b"", b"", b""] if magic == V7 else [b"root", b"root", number(device[0], 8), number(device[1], 8)]),
        prefix,
    )  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def v7(name, data=b"", **fields):
    """The oldest form: a directory is a file whose name ends in a slash."""
    return header(name, b"\0", len(data), magic=V7, **fields) + padded(data)


def ustar(name, kind=FILE, data=b"", **fields):
    """A long name is cut at a slash into prefix and name."""
    prefix = b""
    if len(name) > 100:
        cut = name.index(b"/", len(name) - 101)
        prefix, name = name[:cut], name[cut + 1 :]
    return header(name, kind, len(data), prefix=prefix, **fields) + padded(data)


def gnu(name, kind=FILE, data=b"", link=b"", **fields):
    """Long names come in entries of their own before the entry."""
    long = b""
    for letter, text in ((b"K", link), (b"L", name)):
        if len(text) > 100:
            long += header(b"././@LongLink", letter, len(text) + 1, mode=0, mtime=0, magic=GNU) + padded(text + b"\0")
    return long + header(name[:100], kind, len(data), link=link[:100], magic=GNU, **fields) + padded(data)


def pax(name, kind=FILE, data=b"", link=b"", xattrs=None, records=None, **fields):
    """What the header cannot hold goes into records; `records` adds some, such as times with fractions."""
    records = dict(records or {})
    if len(name) > 100:
        records["path"] = name
    if len(link) > 100:
        records["linkpath"] = link
    for key in ("uid", "gid"):
        if fields.get(key, 0) >= 8**7:
            records[key] = b"%d" % fields.pop(key)
    for key, value in (xattrs or {}).items():
        records["SCHILY.xattr." + key] = value
    extended = pax_header(b"PaxHeaders/" + name[:80], b"x", records) if records else b""
    return extended + header(name[:100], kind, len(data), link=link[:100], **fields) + padded(data)


def pax_header(name, kind, records):
    body = b""
    for key, value in sorted(records.items()):
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + len(str(len(rest)))
        length = len(rest) + len(str(length))
        body += b"%d" % length + rest
    return header(name, kind, len(body)) + padded(body)


# --- layers ------------------------------------------------------------------------------------------

APPLETS = """
    awk basename cat chgrp chmod chown cmp cp cut date dd diff dirname du echo env false find grep head hostname id
    kill ln ls md5sum mkdir mkfifo mknod mktemp mv od printf ps pwd readlink rm rmdir sed sh sha256sum sleep sort
    stat tail tar tee test touch tr true truncate umount uname uniq usleep vi wc wget xargs xxd
""".split()


def base(busybox):
    layer = []
    for name in b"bin dev etc home lib media mnt proc root run sbin srv sys tmp usr usr/bin usr/sbin usr/share var var/log".split():
        mode = {b"tmp": 0o1777, b"root": 0o700}.get(name)
        layer.append(ustar(name + b"/", DIR, mode=mode))
    layer.append(ustar(b"bin/busybox", data=busybox, mode=0o755))
    for applet in APPLETS:
        layer.append(ustar(b"bin/" + applet.encode(), SYMLINK, link=b"/bin/busybox"))
    layer.append(ustar(b"usr/sbin/httpd", SYMLINK, link=b"/bin/busybox"))
    layer.append(ustar(b"linuxrc", SYMLINK, link=b"/bin/busybox"))
    layer.append(ustar(b"etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\nnginx:x:100:101::/var/cache/nginx:/bin/false\n"))
    layer.append(ustar(b"etc/group", data=b"root:x:0:\nnginx:x:101:\n"))
    layer.append(ustar(b"etc/os-release", data=b'ID=busybox\nPRETTY_NAME="busybox, a stand-in for alpine"\n'))
    return b"".join(layer) + END


def attributes():
    capability = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep
    layer = [ustar(b"./", DIR, mode=0o1751, uid=12, gid=34), ustar(b"./modes/", DIR)]
    for mode in (0o000, 0o111, 0o444, 0o755, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777):
        layer.append(ustar(b"./modes/file-%04o" % mode, data=b"%o" % mode, mode=mode))
    for mode in (0o000, 0o700, 0o1777, 0o2775, 0o7755):
        layer.append(ustar(b"./modes/dir-%04o/" % mode, DIR, mode=mode))
    layer.append(pax(b"./owners/", DIR, uid=1, gid=2))
    for uid in (99, 65534, 65536, 70000, 2097151, 2097152, 2**31, 2**32 - 2):
        layer.append(pax(b"./owners/%d" % uid, data=b"x", uid=uid, gid=uid - 1))
    layer.append(pax(b"./owners/link", SYMLINK, link=b"70000", uid=70000, gid=70000))
    layer.append(pax(b"./times/", DIR, records={"mtime": b"1488573141.987654321"}))
    for time in (b"0", b"1", b"-1.5", b"-86400", b"1488573141.123456789", b"1488573141.5", b"4102444800.000000001", b"20000000000"):
        layer.append(pax(b"./times/" + time, data=time, records={"mtime": time}))
    layer.append(pax(b"./times/access", data=b"x", records={"mtime": b"1000000000.25", "atime": b"1100000000.75", "ctime": b"1"}))
    layer.append(pax(b"./times/link", SYMLINK, link=b"0", records={"mtime": b"1234567890.000000123"}))
    layer.append(pax(b"./xattrs/", DIR, xattrs={"user.on-directory": b"yes"}))
    layer.append(pax(b"./xattrs/plain", data=b"x", xattrs={"user.note": b"plain", "user.utf8": "größe".encode()}))
    layer.append(pax(b"./xattrs/binary", data=b"x", xattrs={"user.blob": b"12 user.fake=1\n\0\xff\n\0\n", "user.empty": b""}))
    layer.append(pax(b"./xattrs/long", data=b"x", xattrs={"user.long": bytes(range(256)) * 8}))
    layer.append(pax(b"./xattrs/capability", data=b"x", mode=0o755, xattrs={"security.capability": capability}))
    layer.append(pax(b"./xattrs/all/", DIR, mode=0o1700, xattrs={"security.capability": capability, "trusted.note": b"t", "user.a": b"\0"}))
    layer.append(ustar(b"./empty"))
    return b"".join(layer) + END


def names():
    """Names of every length and of every byte, in every dialect."""
    dirs = b"/".join([b"d%02d" % i + b"x" * 20 for i in range(14)])  # 335 bytes
    layer = [ustar(b"names/", DIR)]
    layer.append(ustar(b"names/" + b"u" * 94))  # 100 bytes: fits without a prefix
    layer.append(ustar(b"names/" + dirs[:142] + b"/" + b"u" * 99, data=b"ustar prefix"))
    layer.append(gnu(b"names/" + b"g" * 255, data=b"gnu"))
    layer.append(gnu(b"names/gnu/" + dirs + b"/file", data=b"gnu"))
    layer.append(gnu(b"names/gnu/symlink", SYMLINK, link=b"../" * 60 + b"k" * 80))
    layer.append(gnu(b"names/gnu/link", LINK, link=b"names/gnu/" + dirs + b"/file"))
    layer.append(pax(b"names/" + b"p" * 255, data=b"pax"))
    layer.append(pax(b"names/pax/" + dirs + b"/file", data=b"pax"))
    layer.append(pax(b"names/pax/symlink", SYMLINK, link=b"./" * 200 + b"target"))
    layer.append(pax(b"names/pax/link", LINK, link=b"names/pax/" + dirs + b"/file"))
    layer.append(ustar(b"names/latin1-\xe9\xff", data=b"not UTF-8"))
    layer.append(ustar(b"names/latin1-dir-\xe9/", DIR))
    layer.append(ustar(b"names/latin1-dir-\xe9/link\xfe", SYMLINK, link=b"\xe9"))
    layer.append(gnu(b"names/" + b"\xe9" * 120, data=b"not UTF-8"))
    layer.append(pax(b"names/" + b"\xfc" * 120, data=b"not UTF-8"))
    layer.append(ustar("names/größe-\u2028-日本".encode(), data=b"UTF-8"))
    for odd in (b"new\nline", b"tab\tname", b"back\\slash", b" spaces ", b"-rf", b"<&>\"'", b"\x1b[31mred", b"per%20cent", b"co:lon", b"..dots", b"\x7f"):
        layer.append(ustar(b"names/" + odd, data=odd))
    return b"".join(layer) + END


def links():
    layer = [ustar(b"links/", DIR), ustar(b"links/target", data=b"target\n", mode=0o4755, uid=5, gid=6)]
    layer.append(ustar(b"links/same", LINK, link=b"links/target", mode=0o4755, uid=5, gid=6))
    layer.append(ustar(b"links/plain", data=b"the link's own header wins\n", mode=0o4755, uid=5, gid=6))
    layer.append(ustar(b"links/other", LINK, link=b"links/plain", mode=0o640, uid=7, gid=8, mtime=TIME + 60))
    layer.append(ustar(b"links/dot-slash", LINK, link=b"./links/target", mode=0o4755, uid=5, gid=6))
    layer.append(ustar(b"links/empty"))
    layer.append(ustar(b"links/empty-link", LINK, link=b"links/empty"))
    layer.append(ustar(b"links/char", CHAR, mode=0o666, device=(1, 3)))
    layer.append(ustar(b"links/char-link", LINK, link=b"links/char", mode=0o644))
    layer.append(ustar(b"links/fifo", FIFO, mode=0o600))
    layer.append(ustar(b"links/fifo-link", LINK, link=b"links/fifo", mode=0o600))
    layer.append(ustar(b"links/symlink", SYMLINK, link=b"target"))
    layer.append(ustar(b"links/symlink-link", LINK, link=b"links/symlink", mode=0o777))
    for name, target in ((b"dangling", b"no/such/file"), (b"absolute", b"/links/target"), (b"relative", b"../links/target"),
                         (b"out", b"../../../../etc/passwd"), (b"self", b"self"), (b"root", b"/"), (b"dir", b".")):  # fmt: skip
        layer.append(ustar(b"links/" + name, SYMLINK, link=target))
    return b"".join(layer) + END


def devices():
    layer = [ustar(b"devices/", DIR)]
    for name, kind, device in ((b"null", CHAR, (1, 3)), (b"loop", BLOCK, (7, 0)), (b"big", BLOCK, (259, 1048575)), (b"major", CHAR, (4095, 255))):
        layer.append(ustar(b"devices/" + name, kind, mode=0o660, gid=6, device=device))
    layer.append(pax(b"devices/times", CHAR, device=(5, 1), records={"mtime": b"1488573141.000000007"}))
    layer.append(ustar(b"devices/fifo", FIFO, mode=0o622))
    return b"".join(layer) + END


def old():
    """V7 and GNU headers, with numbers that only base-256 can hold."""
    layer = [v7(b"old/", mode=0o750), v7(b"old/v7", b"seventh edition\n", uid=70000)]
    layer.append(gnu(b"old/gnu", data=b"gnu\n", uid=2**31, gid=2**31 + 5))
    layer.append(gnu(b"old/before-1970", data=b"x", mtime=-86400))
    layer.append(gnu(b"old/after-2262", data=b"x", mtime=20000000000))
    return b"".join(layer) + END


def unterminated():
    return ustar(b"unterminated", data=b"the tar ends with this entry")


def overpadded():
    return ustar(b"overpadded", data=b"70 KiB of zeros follow") + END + bytes(70 * 1024)


def global_header():
    """A global header, and files whose parent directories have no entry."""
    layer = pax_header(b"pax_global_header", b"g", {"comment": b"0123456789abcdef0123456789abcdef01234567"})
    layer += ustar(b"implied/parent/file", data=b"x") + ustar(b"implied/other/parent/dir/", DIR, mode=0o700)
    return layer + END


def below():
    """What the next layer covers."""
    layer = []
    for name in (b"", b"gone", b"gone/dir", b"opaque", b"opaque/sub", b"now-file", b"now-file/dir", b"now-symlink", b"meta"):
        layer.append(ustar((b"cover/" + name).rstrip(b"/") + b"/", DIR))
    for name in (b"gone/file", b"gone/dir/file", b"opaque/old", b"opaque/same", b"opaque/sub/old", b"now-file/file", b"now-file/dir/file",
                 b"now-symlink/file", b"now-dir", b"now-fifo", b"again", b"meta/kept", b"meta/file"):  # fmt: skip
        layer.append(ustar(b"cover/" + name, data=b"below: " + name))
    layer.append(ustar(b"cover/was-symlink", SYMLINK, link=b"meta"))
    return b"".join(layer) + END


def above():
    layer = [ustar(b"cover/gone/", DIR), ustar(b"cover/gone/.wh.file"), ustar(b"cover/gone/.wh.dir", mode=0o600, uid=5, gid=70000)]
    layer.append(ustar(b"cover/gone/.wh.never-was"))
    layer.append(ustar(b"cover/nowhere/.wh.never-was"))
    layer.append(ustar(b"cover/opaque/", DIR, mode=0o711))
    layer.append(ustar(b"cover/opaque/.wh..wh..opq"))
    layer.append(ustar(b"cover/opaque/same", data=b"above"))
    layer.append(ustar(b"cover/now-file", data=b"was a directory"))
    layer.append(ustar(b"cover/now-symlink", SYMLINK, link=b"meta"))
    layer.append(ustar(b"cover/now-dir/", DIR))
    layer.append(ustar(b"cover/now-dir/file", data=b"above"))
    layer.append(ustar(b"cover/now-fifo", FIFO))
    layer.append(ustar(b"cover/was-symlink/", DIR))
    layer.append(ustar(b"cover/was-symlink/file", data=b"above"))
    layer.append(ustar(b"cover/.wh.again"))
    layer.append(ustar(b"cover/again", data=b"removed and made again in one layer"))
    layer.append(ustar(b"cover/meta/", DIR, mode=0o500, uid=70000, mtime=TIME + 3600))
    layer.append(ustar(b"cover/meta/file", data=b"below: meta/file", mode=0o4711))
    return b"".join(layer) + END


def restored():
    """Brings back what the layer below it removed, and removes what that one made opaque."""
    layer = [ustar(b"cover/gone/file", data=b"restored"), ustar(b"cover/gone/dir/", DIR), ustar(b"cover/.wh.opaque")]
    return b"".join(layer) + END


def zeros():
    return ustar(b"zeros", data=bytes(3 * MIB)) + END


def linked():
    """Further names of files that only a lower layer has; the last link's own header wins."""
    layer = [ustar(b"linked/", DIR)]
    for name in (b"passwd", b"same"):
        layer.append(ustar(b"linked/" + name, LINK, link=b"etc/passwd", mode=0o640, uid=7, gid=8, mtime=TIME + 60))
    layer.append(ustar(b"linked/release", LINK, link=b"etc/os-release"))
    return b"".join(layer) + END


def big(megabytes):
    """Blocks of 1 MiB: random bytes, text, 64 small files, and a repetition of the random bytes before it."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(2000)]
    noise = b""
    for i in range(megabytes):
        if i % 4 == 0:
            noise = rng.randbytes(MIB)
            yield ustar(b"big/%04d-noise" % i, data=noise)
        elif i % 4 == 1:
            yield ustar(b"big/%04d-text" % i, data=" ".join(rng.choices(words, k=160000)).encode())
        elif i % 4 == 2:
            for j in range(64):
                yield ustar(b"big/%04d-small/%02d" % (i, j), data=rng.randbytes(8192) + b"%08d" % j * 1024)
        else:
            yield ustar(b"big/%04d-again" % i, data=noise)
    yield END


# --- images ------------------------------------------------------------------------------------------


class Archive:
    """The layout that `docker save` wrote before it wrote OCI layouts; every Docker loads it."""

    def __init__(self, path):
        self.path = Path(path)
        self.manifest = []
        self.path.mkdir(parents=True, exist_ok=True)

    def layer(self, parts):
        digest = hashlib.sha256()
        unnamed = self.path / "layer"
        with unnamed.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
        unnamed.rename(self.path / (digest.hexdigest() + ".tar"))
        return digest.hexdigest()

    def image(self, tag, layers):
        """`layers` are pairs of a layer (or None for a step that made none) and the history's words for it."""
        diff_ids = [layer for layer, _ in layers if layer]
        created = "2017-03-03T20:32:21.010554522Z"
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "created": created,
            "history": [{"created": created, "created_by": words} | ({} if layer else {"empty_layer": True}) for layer, words in layers],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff_id for diff_id in diff_ids]},
        }
        text = json.dumps(config, separators=(",", ":")).encode()
        name = hashlib.sha256(text).hexdigest() + ".json"
        (self.path / name).write_bytes(text)
        self.manifest.append({"Config": name, "RepoTags": [tag], "Layers": [diff_id + ".tar" for diff_id in diff_ids]})
        (self.path / "manifest.json").write_text(json.dumps(self.manifest))


def tiny(busybox, path):
    archive = Archive(path)
    rootfs = archive.layer([base(Path(busybox).read_bytes())])
    made = {layer.__name__: archive.layer([layer()]) for layer in
            (attributes, names, links, devices, old, unterminated, overpadded, global_header, below, above, restored, zeros)}  # fmt: skip
    empty = archive.layer([END])
    archive.image("alpine:3.4", [(rootfs, "busybox in /, a stand-in for alpine"), (None, "CMD sh")])
    first = ("names", "links", "devices", "old", "unterminated", "overpadded", "global_header")
    archive.image("nasty:1", [(made["attributes"], "attributes"), (rootfs, "busybox in /")] + [(made[name], name) for name in first] + [(empty, "empty")])
    second = ("links", "below", "above", "restored", "zeros")
    archive.image("nasty:2", [(rootfs, "busybox in /"), (None, "CMD sh"), (empty, "empty")] + [(made[name], name) for name in second] + [(empty, "empty")])


def main():
    match sys.argv[1:]:
        case ["tiny", busybox, path]:
            tiny(busybox, path)
        case ["linked", busybox, path]:
            archive = Archive(path)
            rootfs = archive.layer([base(Path(busybox).read_bytes())])
            archive.image("linked:1", [(rootfs, "busybox in /"), (archive.layer([linked()]), "linked")])
        case ["big", megabytes, path]:
            archive = Archive(path)
            archive.image("big:1", [(archive.layer(big(int(megabytes))), "big")])
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
