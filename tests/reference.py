"""An independent interpreter of one MapReduce step. Shares no code with `mr`; written from the documents alone.

It holds everything in memory, reads files in the order given, and answers the bytes of every part. What it
takes from the documents: a line ends with LF or CRLF; keys ascend; values come in (file, line) order; a key's
part is the hash that mr/partition.py specifies for other languages; a line of tsv is key TAB value.
"""

import json
import re
import zlib
from pathlib import Path


def reference(mapper, reducer, files, reduces=8, parse=lambda line: (line,), cell=None):
    """The bytes of each part. `parse` makes the mapper's arguments of a line, `cell` the text of a field."""
    groups, parts = {}, [b""] * reduces
    for file in files:
        for raw in re.findall(rb"[^\n]*\n|[^\n]+", Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")):
            line = re.sub(rb"\r?\n\Z", b"", raw).decode("utf-8", "surrogateescape")
            for key, value in mapper(*parse(line)) or ():
                groups.setdefault(key, []).append(value)
    for key in sorted(groups):
        hashed = zlib.crc32(b"P" + key.encode("utf-8", "surrogatepass")) * 0x9E3779B1 % 2**32
        for pair in reducer(key, iter(groups[key])) or ():
            line = "\t".join((cell or tsv)(one) for one in pair if one is not None) + "\n"
            parts[hashed * reduces >> 32] += line.encode("utf-8", "surrogateescape")
    return parts


def tsv(value):
    """A field of tsv: text with its escapes, everything else as JSON."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
