"""Named video sizes and lengths of Open-Sora 1.1 and 1.2.

A resolution name stands for a pixel budget, and has one (height, width) per aspect ratio. Ratios are height / width,
and an aspect-ratio *name* is height:width as well: ``9:16`` is landscape, 720x1280 at 720p. (Version 2.0 writes
width:height; it has its own tables.)
"""

from __future__ import annotations

from mindone.errors import UserError

ASPECT_NAMES = {
    "3:8": "0.38", "9:21": "0.43", "12:25": "0.48", "1:2": "0.50", "9:17": "0.53", "27:50": "0.54", "9:16": "0.56",
    "5:8": "0.62", "2:3": "0.67", "3:4": "0.75", "1:1": "1.00", "4:3": "1.33", "3:2": "1.50", "16:9": "1.78",
    "17:9": "1.89", "2:1": "2.00", "50:27": "2.08",
}  # fmt: skip

PIXELS = {
    "144p": 36864, "256": 65536, "240p": 102240, "360p": 230400, "512": 262144, "480p": 409920, "720p": 921600,
    "1024": 1048576, "1080p": 2073600, "2k": 3686400, "2048": 4194304, "2880": 8294400, "4k": 8294400,
}  # fmt: skip

NUM_FRAMES = {
    "1x": 51, "2x": 102, "4x": 204, "8x": 408, "16x": 816,
    "2s": 51, "4s": 102, "8s": 204, "16s": 408, "32s": 816,
}  # fmt: skip

_VIDEO_SIZES = {
    "144p": "117x312 125x291 133x277 135x270 139x262 141x260 144x256 151x241 156x234 166x221 192x192 221x165 235x156 "
    "256x144 263x139 271x135 277x132",
    "240p": "196x522 210x490 222x462 226x452 232x438 236x436 240x426 252x404 262x393 276x368 320x320 370x278 392x262 "
    "426x240 440x232 452x226 462x222",
    "360p": "294x784 314x732 332x692 340x680 350x662 352x652 360x640 380x608 392x588 416x554 480x480 554x416 588x392 "
    "640x360 660x350 678x340 692x332",
    "480p": "392x1046 420x980 444x925 452x904 466x880 470x870 480x854 506x810 522x784 554x738 640x640 740x555 784x522 "
    "854x480 880x466 906x454 924x444",
    "720p": "588x1568 628x1466 666x1388 678x1356 698x1318 706x1306 720x1280 758x1212 784x1176 832x1110 960x960 "
    "1108x832 1176x784 1280x720 1320x698 1358x680 1386x666",
    "1080p": "882x2352 942x2198 998x2080 1018x2036 1048x1980 1058x1958 1080x1920 1138x1820 1176x1764 1248x1664 "
    "1440x1440 1662x1246 1764x1176 1920x1080 1980x1048 2036x1018 2078x998",
    "2k": "1176x3136 1256x2930 1330x2770 1358x2716 1398x2640 1412x2612 1440x2560 1518x2428 1568x2352 1662x2216 "
    "1920x1920 2218x1664 2352x1568 2560x1440 2638x1396 2716x1358 2772x1330",
    "4k": "1764x4704 1886x4400 1996x4158 2036x4072 2096x3960 2118x3918 2160x3840 2276x3642 2352x3528 2494x3326 "
    "2880x2880 3326x2494 3528x2352 3840x2160 3958x2096 4072x2036 4156x1994",
}

# The image tables of PixArt: heights up to the width, then the transposed sizes. 256, 512 and 2048 are a quarter, a
# half and the double of 1024.
_IMAGE_RATIOS = (
    "0.25 0.26 0.27 0.28 0.32 0.33 0.35 0.4 0.42 0.48 0.5 0.52 0.57 0.6 0.68 0.72 0.78 0.82 0.88 0.94 1.0 "
    "1.07 1.13 1.21 1.29 1.38 1.46 1.67 1.75 2.0 2.09 2.4 2.5 2.89 3.0 3.11 3.62 3.75 3.88 4.0"
)
_IMAGE_SIZES = (
    "512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344 "
    "768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024 1024x960 1088x960 1088x896 "
    "1152x896 1152x832 1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1664x576 1728x576 1792x576 "
    "1856x512 1920x512 1984x512 2048x512"
)
_RATIOS_2880 = (
    "0.25 0.26 0.27 0.28 0.32 0.33 0.34 0.4 0.42 0.47 0.49 0.51 0.55 0.59 0.68 0.72 0.78 0.83 0.89 0.93 1.0 "
    "1.07 1.12 1.21 1.28 1.39 1.47 1.7 1.82 2.03 2.13 2.39 2.5 2.92 3.0 3.12 3.68 3.82 3.95 4.0"
)
_SIZES_2880 = (
    "1408x5760 1408x5568 1408x5376 1408x5184 1600x4992 1600x4800 1600x4672 1792x4480 1792x4288 1920x4096 1920x3904 "
    "1920x3776 2112x3840 2112x3584 2304x3392 2304x3200 2496x3200 2496x3008 2688x3008 2688x2880 2880x2880 2880x2688 "
    "3008x2688 3008x2496 3200x2496 3200x2304 3392x2304 3584x2112 3840x2112 3904x1920 4096x1920 4288x1792 4480x1792 "
    "4672x1600 4800x1600 4992x1600 5184x1408 5376x1408 5568x1408 5760x1408"
)


def _table(ratios: str, sizes: str, factor: float = 1) -> dict[str, tuple[int, int]]:
    pairs = [[int(int(n) * factor) for n in size.split("x")] for size in sizes.split()]
    return {ratio: (height, width) for ratio, (height, width) in zip(ratios.split(), pairs)}


ASPECT_TABLES: dict[str, dict[str, tuple[int, int]]] = {
    **{name: _table(" ".join(ASPECT_NAMES.values()), sizes) for name, sizes in _VIDEO_SIZES.items()},
    **{name: _table(_IMAGE_RATIOS, _IMAGE_SIZES, int(name) / 1024) for name in ("256", "512", "1024", "2048")},
    "2880": _table(_RATIOS_2880, _SIZES_2880),
}


def named_resolution(resolution: str) -> str:
    """The name itself, as text.

    Raises:
        UserError: no such resolution.
    """
    if str(resolution) not in ASPECT_TABLES:
        raise UserError(f"resolution={resolution} is not known; use one of {', '.join(ASPECT_TABLES)}")
    return str(resolution)


def named_size(resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """(height, width) in pixels of e.g. ``720p`` and ``9:16`` (height:width).

    Raises:
        UserError: no such resolution, or it has no such ratio.
    """
    table = ASPECT_TABLES[named_resolution(resolution)]
    key = ASPECT_NAMES.get(str(aspect_ratio))
    if key not in table:
        names = [name for name, value in ASPECT_NAMES.items() if value in table]
        raise UserError(
            f"aspect_ratio={aspect_ratio} (height:width) does not exist at resolution={resolution}; "
            f"use one of {', '.join(names) or 'none, and give image_size instead'}"
        )
    return table[key]


def exact_size(resolution: str) -> tuple[int, int] | None:
    """(height, width) of a bucket that names one size, ``64x96``, or None for any other name.

    Raises:
        UserError: a side is no multiple of 8, which every autoencoder needs.
    """
    sides = str(resolution).split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        return None
    height, width = map(int, sides)
    if height < 8 or width < 8 or height % 8 or width % 8:
        raise UserError(f"resolution={resolution}: height and width have to be multiples of 8")
    return height, width


def closest_ratio(height: int, width: int, resolution: str) -> str:
    """The key of the ratio nearest to height / width in the table of ``resolution``; the first one wins a tie."""
    return min(ASPECT_TABLES[resolution], key=lambda key: abs(float(key) - height / width))


def parse_num_frames(value: int | str) -> int:
    """Frames from a number (``51``) or a length name (``4s`` and ``2x`` are 102).

    Raises:
        UserError: neither of them, or less than 1.
    """
    text = str(value).strip()
    if text in NUM_FRAMES:
        return NUM_FRAMES[text]
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"num_frames={value} is not a number of frames; use e.g. 51, or one of {', '.join(NUM_FRAMES)}")
    return int(text)


# --- Open-Sora 2.0: ratios are width:height, and sizes follow from a rule ---------------------------------------------

RATIOS_2_0 = ("2.39:1", "2:1", "16:9", "1.85:1", "9:16", "5:8", "3:2", "4:3", "1:1")


def pixels_2_0(resolution: str) -> int:
    """The pixel budget of a name of 2.0: ``256px`` is a square of that side, ``360p`` is that high at 16:9.

    What follows an underscore, ``256px_max`` or ``256px_ar16:9``, chooses from the name's table and does not count.

    Raises:
        UserError: it is neither.
    """
    text = str(resolution).partition("_")[0]
    for suffix, factor in (("px", 1.0), ("p", 16 / 9)):
        number = text.removesuffix(suffix)
        if text.endswith(suffix) and number.isdigit() and int(number) > 0:
            return int(int(number) ** 2 * factor)
    raise UserError(
        f"resolution={resolution} is not known to version 2.0; use a number with px or p: 256px, 768px, 480p"
    )


def aspect_table_2_0(resolution: str, training: bool = False, grid: int = 16) -> dict[str, tuple[int, int]]:
    """(height, width) per ratio name (width:height), both multiples of ``grid``.

    In training the sides move to the neighbour that comes closest to the pixel budget, and sizes that occurred already
    are left out. ``256px_ar16:9`` has that ratio only, ``256px_max`` the one with the largest area.
    """
    choice = str(resolution).partition("_")[2]
    total = pixels_2_0(resolution)
    table: dict[str, tuple[int, int]] = {}
    for name in RATIOS_2_0:
        wide, high = (float(part) for part in name.split(":"))
        width = int((total * wide / high) ** 0.5 // grid * grid)
        height = int(total / width // grid * grid)
        if training:
            height, width = _closest_to(total, height, width, grid)
            if (height, width) in table.values():
                continue
        table[name] = (height, width)
    transposed = {":".join(reversed(name.split(":"))): (width, height) for name, (height, width) in table.items()}
    table = {**table, **transposed}
    if choice == "max":
        largest = max(table, key=lambda name: table[name][0] * table[name][1])
        return {largest: table[largest]}
    if choice and choice.removeprefix("ar") not in table:
        raise UserError(f"resolution={resolution} is not known; after the underscore stands max, or ar and a ratio")
    return {name: size for name, size in table.items() if not choice or name == choice.removeprefix("ar")}


def _closest_to(total: int, height: int, width: int, grid: int) -> tuple[int, int]:
    """One step of ``grid`` in either direction along either side, wherever it brings the area closer."""
    best = (height, width)
    for change in ((height - grid, width), (height + grid, width), (height, width - grid), (height, width + grid)):
        if abs(change[0] * change[1] - total) < abs(best[0] * best[1] - total):
            best = change
    return best


def closest_ratio_2_0(height: int, width: int, resolution: str) -> str:
    """The name in the training table whose height / width is nearest; the first one wins a tie."""
    table = aspect_table_2_0(resolution, training=True)
    return min(table, key=lambda name: abs(height / width - ratio_2_0(name)))


def ratio_2_0(name: str) -> float:
    """Height / width of a name such as ``16:9`` (width:height)."""
    wide, high = (float(part) for part in name.split(":"))
    return high / wide


def named_size_2_0(resolution: str, aspect_ratio: str, training: bool = False, grid: int = 16) -> tuple[int, int]:
    """(height, width) in pixels of e.g. ``256px`` and ``16:9`` (width:height).

    Raises:
        UserError: no such resolution, or no such ratio.
    """
    table = aspect_table_2_0(resolution, training, grid)
    if aspect_ratio not in table:
        raise UserError(f"aspect_ratio={aspect_ratio} (width:height) is not known; use one of {', '.join(table)}")
    return table[aspect_ratio]
