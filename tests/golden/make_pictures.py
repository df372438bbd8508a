"""Make the README's picture by running what ``vivit-lab demo`` runs.

Run from the root of a checkout, then ``python -m tests.golden.make_bundled --only-manifest``::

    python -m tests.golden.make_pictures
"""

from __future__ import annotations

from pathlib import Path

from vivit_lab.checkpoints import bundled_clip_path
from vivit_lab.explain import DEMO_METHOD, load_pair
from vivit_lab.records import record_attention
from vivit_lab.render import contact_sheet
from vivit_lab.video import read_clip

PICTURE = Path("data/pictures/samoyed_attention_rollout.jpg")


def main() -> None:
    """Write the demo's contact sheet as a JPEG."""
    model, processor = load_pair("bundled")
    clip = read_clip(bundled_clip_path(), model.config.num_frames, 2, processor=processor)
    heat = DEMO_METHOD(record_attention(model, clip))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(clip, heat, columns=4, percentile=99).save(PICTURE, quality=88)


if __name__ == "__main__":
    main()
