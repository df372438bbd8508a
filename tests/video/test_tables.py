"""The law of tables: what a file's own table tells is what reading all its packets tells, at a part of the cost."""

import os

import av
import numpy as np
import pytest

from tests.video.break_video import cut, remux, trim_by_edit_list, write_edit_list
from tests.video.make_video import FRAME, TWO_STREAMS, VARIANTS, Variant, read_number
from vivit_lab.errors import NotAVideoError
from vivit_lab.video import read_clip, read_frames
from vivit_lab.video.index import index_packets
from vivit_lab.video.source import open_video
from vivit_lab.video.tables import table_packets

FACTS = "time_base last_duration rate obstacle missing header_seconds".split()
TABLED = [kind for kind in VARIANTS if kind.name.endswith((".mp4", ".mov", ".mkv", ".webm"))]


def both(path, stream=0):
    """The index by the file's table (None where it does not tell), and by its packets."""
    with open_video(path, stream) as (container, chosen):
        packets = table_packets(container, chosen, path)
        by_table = None if packets is None else index_packets(container, chosen, packets)
    with open_video(path, stream) as (container, chosen):
        return by_table, index_packets(container, chosen)


def assert_same(path, stream=0):
    by_table, by_packets = both(path, stream)
    assert by_table is not None
    assert by_table.pts.tolist() == by_packets.pts.tolist()
    assert by_table.keyframes.tolist() == by_packets.keyframes.tolist()
    for fact in FACTS:
        assert getattr(by_table, fact) == getattr(by_packets, fact), fact
    return by_table


@pytest.mark.parametrize("kind", TABLED, ids=lambda kind: kind.name)
def test_table_and_packets_give_the_same_index(kind, video_of):
    if kind.name == "h264_fragmented.mp4":
        assert both(video_of(kind))[0] is None  # its samples are listed in its fragments
    else:
        assert_same(video_of(kind))


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    "flags", ["faststart", "negative_cts_offsets", "faststart+negative_cts_offsets", "use_metadata_tags"]
)
def test_table_before_the_pictures_and_negative_offsets(flags, b_frames, tmp_path):
    kind = Variant("flags.mp4", "libx264", b_frames=b_frames, audio=True, container_options={"movflags": flags})
    assert len(assert_same(kind.make(tmp_path))) == 30


@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([(0.8, 5)], 20),
        ([(1.2, 0)], 30),
        ([(0.5, -1), (1.2, 0)], 30),
        ([(0.5, -1), (0.4, 9)], 10),
        ([(0.24, 0), (0.4, 17)], 16),
        ([(0.24, 1), (0.2, -1), (0.4, 17)], 16),
        ([(0.4, 17), (0.24, 2)], 16),
    ],
)
@pytest.mark.parametrize("b_frames", [0, 2])
def test_edit_lists(edits, shown, b_frames, tmp_path):
    path = write_edit_list(Variant("edits.mp4", "libx264", b_frames=b_frames).make(tmp_path), edits)
    by_table, by_packets = both(path)
    assert by_packets.obstacle is not None or len(by_packets) == shown
    if by_table is not None:
        assert_same(path)


def test_trimmed_file_is_read_by_its_table(tmp_path):
    path = trim_by_edit_list(Variant("trimmed.mp4", "libx264", b_frames=2).make(tmp_path), first=5, count=20)
    assert len(assert_same(path)) == 20
    assert read_number(read_clip(path, 1, start=12).frames[0]) == 17


def test_each_stream_has_its_table(video_of, tmp_path):
    for stream in (0, 1):
        assert_same(video_of(TWO_STREAMS), stream)
        path = remux_both(video_of(TWO_STREAMS), tmp_path / f"two{stream}.mp4")
        assert_same(path, stream)


def remux_both(good, path):
    with av.open(str(good)) as source, av.open(str(path), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams.video}
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    return path


def test_late_times_are_in_the_table_too(tmp_path):
    def late(packets):
        packets[11].pts += 3 * packets[11].duration
        return packets

    good = Variant("good.mp4", "libx264", b_frames=2).make(tmp_path)
    assert_same(remux(good, tmp_path / "late.mp4", late))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_files_that_were_cut_off_are_read(name, share, tmp_path):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = cut(Variant(name, "libx264", size=(240, 320), container_options=options).make(tmp_path), share)
    by_table, by_packets = both(path)
    assert by_table is None
    assert 0 < len(by_packets) < 30


def test_damaged_tables_do_not_tell_or_tell_the_same(tmp_path):
    good = Variant("good.mp4", "libx264", b_frames=2, size=(48, 64)).make(tmp_path)
    contents = good.read_bytes()
    movie = contents.index(b"moov")
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        broken = bytearray(contents)
        broken[int(rng.integers(movie, len(broken)))] ^= 1 << int(rng.integers(8))
        path = tmp_path / "broken.mp4"
        path.write_bytes(broken)
        try:
            by_table, by_packets = both(path)
        except NotAVideoError:
            continue
        if by_table is not None and by_packets.obstacle is None:
            told += 1
            assert by_table.pts.tolist() == by_packets.pts.tolist(), seed
    assert told > 20


def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.read().split("rchar: ")[1].split()[0])


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Noise that does not compress: about 12 MB in 240 frames, a key frame each 12."""
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 0
        stream.codec_context.bit_rate = 10_000_000
        stream.codec_context.time_base = FRAME
        noise = rng.integers(0, 255, (8, 240, 320, 3), dtype=np.uint8)
        for number in range(240):
            frame = av.VideoFrame.from_ndarray(noise[number % 8], format="rgb24")
            frame.pts, frame.time_base = number, FRAME
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="counts what the system says was read")
@pytest.mark.parametrize("name", ["long.mkv", "long.mp4", "long.mov"])
def test_a_few_frames_of_a_long_file_are_read_without_the_rest(name, long_video, tmp_path):
    path = long_video if name == "long.mkv" else remux(long_video, tmp_path / name, lambda packets: packets)
    size = path.stat().st_size
    assert size > 8_000_000
    read_clip(path, 1, threads=1)  # what a first video loads of libraries is not counted
    os.utime(path, (1_000_000_000, 1_000_000_000))  # and what was kept of it is another file's
    counts = []
    for start in (4.8, 5.6):
        before = bytes_read()
        clip = read_clip(path, 4, start=start)
        counts.append(bytes_read() - before)
        assert clip.indices[0] == round(25 * start)
    assert counts[0] < size / 4
    assert counts[1] <= counts[0]
    before = bytes_read()
    whole = read_frames(path, np.arange(0, 240, 1)[100:108], threads=1)
    assert bytes_read() - before < size / 4
    assert len(whole) == 8
