"""Drawn frames as a video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from alignrank.data.decode import Array
from alignrank.extras import optional

# Written in pieces of a second (us), joined at the end: a run that is killed leaves a video that plays, too.
_OPTIONS = {"movflags": "+hybrid_fragmented+frag_keyframe", "frag_duration": "1000000"}


class DrawnVideo:
    """H.264 (MPEG-4 where FFmpeg has no encoder for it) in an mp4 file, frame by frame, without sound."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        av = optional("video", "av")
        self._rate = rate.limit_denominator(1001)
        self._container = av.open(str(path), "w", format="mp4", options=_OPTIONS)
        self._codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream: Any = None
        self._count = 0

    def add(self, image: Array) -> None:
        """Append [H,W,3] uint8; the first one's size is the video's."""
        import av

        if self._stream is None:
            self._stream = self._container.add_stream(self._codec, rate=self._rate)
            self._stream.height, self._stream.width = image.shape[:2]
            if self._codec == "libx264":
                self._stream.options = {"preset": "veryfast"}
            # 4:2:0, which every player knows, has one colour for 2 x 2 pixels and in H.264 no odd sides. A video of odd
            # sides comes in 4:4:4 then: a padded one would not have the size of its source.
            odd = self._codec == "libx264" and (image.shape[0] % 2 or image.shape[1] % 2)
            self._stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        stream = self._stream
        frame = frame.reformat(width=stream.width, height=stream.height, format=stream.pix_fmt)
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()
