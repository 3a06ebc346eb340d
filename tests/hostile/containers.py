"""Where the boxes of a container begin and end, by small parsers of our own: places to cut a file at."""

from collections.abc import Iterator

MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"udta", b"edts"}
MKV_PARENTS = {0x18538067, 0x114D9B74, 0x1654AE6B, 0xAE, 0x1F43B675, 0x1C53BB6B, 0x1549A966}  # Segment … Info


def boundaries(content: bytes, suffix: str) -> list[int]:
    """Offsets at which some box begins or ends, ascending, without the file's own begin and end."""
    parser = {".mp4": mp4_boxes, ".avi": avi_chunks, ".mkv": mkv_elements}[suffix]
    return sorted({place for box in parser(content, 0, len(content)) for place in box} - {0, len(content)})


def mp4_boxes(content: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each box, inner ones too (ISO/IEC 14496-12, 4.2)."""
    while begin + 8 <= end:
        size, kind = int.from_bytes(content[begin : begin + 4], "big"), content[begin + 4 : begin + 8]
        yield begin, begin + size
        if kind in MP4_PARENTS:
            yield from mp4_boxes(content, begin + 8, begin + size)
        begin += size


def avi_chunks(content: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each RIFF chunk, those of lists too."""
    while begin + 8 <= end:
        size = int.from_bytes(content[begin + 4 : begin + 8], "little")
        yield begin, begin + 8 + size
        if content[begin : begin + 4] in (b"RIFF", b"LIST"):
            yield from avi_chunks(content, begin + 12, begin + 8 + size)
        begin += 8 + size + size % 2


def mkv_elements(content: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each element (RFC 8794), of the master elements a video has also those inside."""
    while begin < end:
        id_bytes = 9 - content[begin].bit_length()
        size_at = begin + id_bytes
        size_bytes = 9 - content[size_at].bit_length()
        size = int.from_bytes(content[size_at : size_at + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        data = size_at + size_bytes
        last = min(data + size, end)
        yield begin, last
        if int.from_bytes(content[begin:size_at], "big") in MKV_PARENTS:
            yield from mkv_elements(content, data, last)
        begin = last
