# The index of vivit_lab.render: read when it runs, and by type checkers and editors.
from vivit_lab.render.movie import render_movie as render_movie
from vivit_lab.render.overlay import heat_on_source as heat_on_source
from vivit_lab.render.overlay import to_frames as to_frames
from vivit_lab.render.sheet import contact_sheet as contact_sheet
