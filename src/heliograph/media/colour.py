"""Between RGB pixels and the YUV frames of a video, without a shift in colour.

Written video is BT.709 in limited range, which is what players expect of a file that says so. The scaler's fast paths
lose about one level of brightness each way, which a video continued from its own output would add up; the exact ones
are asked for here.
"""

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import UInt8

EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
"""How colour is thinned out to half resolution and filled in again."""

ONE_THREAD = 1
"""The scaler would start threads anew for every frame, which takes longer than a small frame itself (64×64: 0.29 ms a
frame against 0.03; 384×640: the same). The pixels do not change."""

UNSPECIFIED = 2
"""What a file that names no colour matrix says (ITU-T H.273)."""

HD_WIDTH, HD_HEIGHT = 1280, 576
"""From this width, or above this height, a file that names no colour matrix means BT.709, else BT.601."""


def to_yuv(picture: UInt8[np.ndarray, "h w 3"]) -> VideoFrame:
    """RGB to a yuv420p frame, BT.709, limited range; `h` and `w` are even."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT,
        threads=ONE_THREAD,
    )
    frame.color_primaries = ColorPrimaries.BT709
    frame.color_trc = ColorTrc.BT709
    return frame


def to_rgb(frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """A decoded frame to RGB by the matrix and range it names; one that names none is taken by its size."""
    looks_hd = frame.width >= HD_WIDTH or frame.height > HD_HEIGHT
    guess = Colorspace.ITU709 if looks_hd else Colorspace.ITU601
    return frame.to_ndarray(
        format="rgb24",
        src_colorspace=guess if frame.colorspace == UNSPECIFIED else None,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
        threads=ONE_THREAD,
    )
