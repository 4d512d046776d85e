"""Parquet files that promise much, written byte by byte: Thrift's compact form, a page, a footer."""

INTEGER, LONG, TEXT, LIST, STRUCT = 5, 6, 8, 9, 12


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def text(content: bytes) -> bytes:
    return varint(len(content)) + content


def items(kind: int, *values: bytes) -> bytes:
    return bytes([len(values) << 4 | kind]) + b"".join(values)


def structure(*fields: tuple[int, int, bytes]) -> bytes:
    """(number, kind, content) of each field, by rising numbers."""
    found, before = b"", 0
    for place, kind, content in fields:
        found += bytes([(place - before) << 4 | kind]) + content
        before = place
    return found + b"\0"


def parquet(
    unpacked: int = 4,
    content: bytes = bytes(64),
    packed: int | None = None,
    values: int = 1,
    rows: int = 1,
    page_values: int = 1,
    repeated=False,
) -> bytes:
    """
    A column `a` of integers, of one page.

    Args:
        unpacked: bytes of the page, as its head says them.
        content: what the page packs.
        packed: bytes of the column, as the footer says them.
        values, rows: of the column and of the row group, as the footer says them.
        page_values: as the page's head says them.
        repeated: whether a row is a list.
    """
    gzip = 2
    encodings = [(2, INTEGER, number(0)), (3, INTEGER, number(3)), (4, INTEGER, number(3))]
    plain = structure((1, INTEGER, number(page_values)), *encodings)
    head = structure(
        (1, INTEGER, number(0)), (2, INTEGER, number(unpacked)), (3, INTEGER, number(len(content))),
        (5, STRUCT, plain),
    )  # fmt: skip
    column = structure(
        (1, INTEGER, number(1)), (2, LIST, items(INTEGER, number(0))), (3, LIST, items(TEXT, text(b"a"))),
        (4, INTEGER, number(gzip)), (5, LONG, number(values)), (6, LONG, number(len(head) + len(content))),
        (7, LONG, number(len(head) + len(content) if packed is None else packed)), (9, LONG, number(4)),
    )  # fmt: skip
    chunk = structure((2, LONG, number(4)), (3, STRUCT, column))
    group = structure((1, LIST, items(STRUCT, chunk)), (2, LONG, number(100)), (3, LONG, number(rows)))
    root = structure((4, TEXT, text(b"root")), (5, INTEGER, number(1)))
    leaf = structure((1, INTEGER, number(1)), (3, INTEGER, number(2 if repeated else 0)), (4, TEXT, text(b"a")))
    footer = structure(
        (1, INTEGER, number(1)), (2, LIST, items(STRUCT, root, leaf)), (3, LONG, number(rows)),
        (4, LIST, items(STRUCT, group)),
    )  # fmt: skip
    return b"PAR1" + head + content + footer + len(footer).to_bytes(4, "little") + b"PAR1"
