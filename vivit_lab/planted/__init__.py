"""Clips with planted evidence: only motion over time tells the class, and we know where it is.

A heat map can be judged only where the truth is known. Here it is known by construction. Over a still photograph lie
four drawn shapes of random outline, colour and brightness: three filled ones, and one of which only the outline is
drawn, the **target**. It rests, moves a few pixels a frame in one of eight directions inside a short window, and rests
again. The direction is the class. The other three are decoys; on the harder levels they move too, each in a window and
a direction of its own. So the target is defined by what it is, never by colour or place, and all evidence is local:
its pixels while it moves (`PlantedClip.mask`).

``rule="odd"`` is harder: a coin toss decides which kind is the odd one out, a filled shape among outlines or the other
way round. Then the resting shapes are evidence too, of which kind is odd, and the mask is that of the motion only.

Why no single frame helps
    Shapes live on a torus: what leaves on one side comes in on the other, and where each starts is uniform over all
    pixels, whatever the class. So where it is in frame *t* (start plus displacement so far) is uniform as well,
    for every class. Stronger, and tested: turn the directions of all shapes by the same multiple of 45° and shift each
    start so that frame *t* stays as it was. This maps the clips of one class one to one onto equally likely clips of
    another with *the very same frame t*, bit for bit, bars, noise and camera included (`PlantedClip.twin`). Hence the
    distribution of a frame, at any *t*, is exactly the same for every class; a perfect observer of one frame scores
    1/8. (This holds for the pixels drawn. An encoder adds traces of earlier frames: see `write_planted`.)

Why a motion detector does not help
    From level 1 on, decoys have the same outlines, sizes, colours, speeds and laws of windows as the target, and all
    directions in a clip differ. Whoever takes any mover for the target is right once in the number of movers: 1/2 on
    level 1, 1/3 on levels 2 and 3.

What gives the target away all the same
    An outline has two edges on each side, so it changes more pixels than a filled shape as it moves; and the target is
    drawn in front. Given the silhouettes and windows of all movers, "the one that changes most" is the target in
    0.89, 0.75 and 0.73 of 150 clips of levels 1, 2 and 3 (0.61, 0.47 and 0.45 with ``rule="odd"``). Maps of frame
    differences therefore lean towards it: keep them beside any method as a control.

Why order matters
    Played backwards, a clip shows the opposite class, with the same probability: every law here is symmetric in
    time. With its frames shuffled, at best the axis of motion is left, and so two classes.

Levels, each the one before and more: 0 only the target moves, and longer; 1 one decoy moves in another window; 2 a
second decoy, noise, a bar in front; 3 a camera that wanders, and more noise. Clip *i* of a seed is the same scene on
all levels. Train, validation and test share neither outlines nor photographs (`photos/README.md` has their origin; all
are CC0 or in the public domain).

`scene` what happens, as numbers, its pixels, and the truth in tokens; `clip` clips with their truth, one thing
changed, and as tensors; `files` movies; `report` what a model makes of them.
"""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
