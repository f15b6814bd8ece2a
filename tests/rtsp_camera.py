"""A camera that speaks RTSP (RFC 2326): motion JPEG as RTP (RFC 2435) inside the TCP connection, for the tests.

It is one thread for each connection and no more than what a player asks of it: OPTIONS, DESCRIBE, SETUP, PLAY. The
packets are those of FFmpeg's own RTP muxer.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import numpy as np

HW = (48, 64)
FPS = 25
JPEG = 26  # RTP's payload type
RTCP = range(200, 205)  # packet types: reports of the sender, which nobody needs here


class Packets:
    """What FFmpeg's muxer writes, one RTP packet a call."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def write(self, packet: bytes) -> int:
        if packet[1] not in RTCP:
            self.taken.append(bytes(packet))
        return len(packet)


def rtp_packets(number: int) -> Iterator[list[bytes]]:
    """The RTP packets of each of `number` images; they grow brighter."""
    packets = Packets()
    with av.open(packets, "w", format="rtp", options={"packetsize": "1400"}) as muxer:
        stream = muxer.add_stream("mjpeg", rate=FPS, options={"huffman": "default", "force_duplicated_matrix": "1"})
        stream.width, stream.height, stream.pix_fmt = HW[1], HW[0], "yuvj420p"
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.thread_count = 1  # slices would need restart markers, which the muxer leaves out
        for i in range(number):
            image = av.VideoFrame.from_ndarray(np.full((*HW, 3), 20 + 5 * i % 200, np.uint8), "bgr24")
            image.pts = i
            muxer.mux(stream.encode(image))
            yield packets.taken[:]
            packets.taken.clear()


class Session(socketserver.StreamRequestHandler):
    """One player."""

    def handle(self) -> None:
        camera: RtspCamera = self.server.camera  # type: ignore[attr-defined]
        while request := self.rfile.readline().decode().split():
            headers = {}
            while line := self.rfile.readline().decode().strip():
                key, _, value = line.partition(":")
                headers[key.lower()] = value.strip()
            self.answer(request[0], headers["cseq"], request[1])
            if request[0] == "PLAY":
                camera.players += 1
                self.play(camera)
                return

    def answer(self, method: str, cseq: str, address: str) -> None:
        more, body = "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n"
        elif method == "DESCRIBE":
            body = (
                f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP {JPEG}\r\na=control:0\r\n"
            )
            more = f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            more = "Session: 1\r\n"
        self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n{more}\r\n{body}".encode())

    def play(self, camera: RtspCamera) -> None:
        """Send `camera.images`, at the camera's rate, and hang up."""
        for packets in rtp_packets(camera.images):
            for packet in packets:
                self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            if camera.gone.wait(1 / FPS):
                return


class RtspCamera:
    """Serves at `address` until it is switched off; each player gets so many images."""

    def __init__(self, images: int, port: int = 0) -> None:
        self.images, self.players, self.gone = images, 0, threading.Event()
        kind: Any = type("Server", (socketserver.ThreadingTCPServer,), {"allow_reuse_address": True, "camera": self})
        self._server: socketserver.ThreadingTCPServer = kind(("127.0.0.1", port), Session)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/front"

    def off(self) -> None:
        """As if unplugged: players are cut off, and nobody answers any more."""
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.off()
