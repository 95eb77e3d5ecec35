"""Which files are images, and what is nobody's data, by names alone.

`nasdeploy/exporting/bundle/pictures.py`, which runs without nasdeploy, says the same.
"""

SUFFIXES = frozenset(
    # JPEG, also under its older names.
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"}
    | {".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""Of images that Pillow reads without further packages, in lower case."""

OF_TOOLS = frozenset(
    {
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "~snapshot"),  # QNAP, NetApp
        *("__macosx", "icon\r", "network trash folder", "temporary items", "resource.frk"),  # macOS
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
        *("lost+found", "lost.dir", "__pycache__"),
    }
)
"""Names, in lower case, of what systems and tools keep for themselves without hiding it."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or a tool's own: no data, whatever it holds and however deep it lies."""
    return name.startswith(".") or name.casefold() in OF_TOOLS


def grouped(name: str, *, is_folder: bool) -> str:
    """What a hidden file or folder is counted under: copies of macOS's attributes are as many as there are files."""
    return f"{name}/" if is_folder else "._*" if name.startswith("._") else name


def suffix_of(name: str) -> str:
    """What a file's name ends in, from its last point on, in lower case; empty if it has none."""
    stem, point, suffix = name.rpartition(".")
    return point + suffix.lower() if stem else ""
