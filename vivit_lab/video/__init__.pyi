# The index of vivit_lab.video: read when it runs, and by type checkers and editors.
from vivit_lab.video.clip import Clip as Clip
from vivit_lab.video.encode import MovieWriter as MovieWriter
from vivit_lab.video.geometry import Geometry as Geometry
from vivit_lab.video.index import FrameIndex as FrameIndex
from vivit_lab.video.index import load_index as load_index
from vivit_lab.video.info import VideoInfo as VideoInfo
from vivit_lab.video.info import probe as probe
from vivit_lab.video.read import read_clip as read_clip
from vivit_lab.video.read import read_frames as read_frames
from vivit_lab.video.read import read_video_pyav as read_video_pyav
from vivit_lab.video.read import read_views as read_views
from vivit_lab.video.read import sample_frame_indices as sample_frame_indices
from vivit_lab.video.read import uniform_frame_indices as uniform_frame_indices
