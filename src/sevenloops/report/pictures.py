"""Arrays of pixels as PNG and SVG, by matplotlib."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .charts import ReportError

__all__ = ["FORMATS", "as_uri", "file_uri", "save"]

FORMATS = (".png", ".svg")


def _image() -> Any:
    try:
        from matplotlib import image
    except ImportError:
        raise ReportError("pictures need matplotlib: pip install 'sevenloops[report]'") from None
    return image


def save(path: Path, picture: npt.ArrayLike) -> None:
    """Write `(height, width)` or `(height, width, 3)` with values from 0 to 1, as the name ends: `.png` or `.svg`.

    Raises `ReportError` for other endings, `OSError`.
    """
    if path.suffix.lower() not in FORMATS:
        raise ReportError(f"{path} must end with one of {', '.join(FORMATS)}")
    _write(path, picture, path.suffix.lower()[1:])


def _write(target: Any, picture: npt.ArrayLike, form: str) -> None:
    pixels = np.clip(np.asarray(picture, np.float64), 0, 1)
    _image().imsave(target, pixels, format=form, cmap="gray", vmin=0, vmax=1)


def as_uri(picture: npt.ArrayLike) -> str:
    """A PNG inside a `data:` address."""
    out = io.BytesIO()
    _write(out, picture, "png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def file_uri(path: Path) -> str:
    """A PNG or SVG file inside a `data:` address. Raises `ReportError` for other endings, `OSError`."""
    kind = {".png": "image/png", ".svg": "image/svg+xml"}.get(path.suffix.lower())
    if kind is None:
        raise ReportError(f"{path} must end with one of {', '.join(FORMATS)}")
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()
