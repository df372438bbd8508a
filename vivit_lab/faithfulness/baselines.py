"""What stands where a tubelet was taken away."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vivit_lab.attribution.forwards import baseline_pixels
from vivit_lab.errors import InputError
from vivit_lab.interventions.corruptions_space import blur

__all__ = ["BASELINES", "baseline_clips", "blurred_still", "check_removal"]

#: Ways to take tubelets away: two that paint over their pixels, and token dropping.
BASELINES = ("blur", "mean", "drop")


def check_removal(baseline: str, blur_sigma: float) -> None:
    """Refuse a baseline that is not known, and a blur that is none.

    Raises:
        InputError: it is so.
    """
    if baseline not in BASELINES:
        raise InputError(f"baseline={baseline!r} is not known; choose one of {', '.join(BASELINES)}")
    if not 0 < blur_sigma < float("inf"):
        raise InputError(f"blur_sigma must be positive and finite, a fraction of the image's side; got {blur_sigma!r}")


def baseline_clips(
    pixels: Float[Tensor, "batch frame channel height width"], baseline: str, blur_sigma: float
) -> Float[Tensor, "batch frame channel height width"]:
    """Return, for each clip, the clip whose tubelets stand where its own were taken away.

    Args:
        pixels: normalised pixels.
        baseline: ``"blur"`` for the clip's blurred still, ``"mean"`` for its mean colour.
        blur_sigma: see ``blurred_still``.

    Raises:
        InputError: the baseline paints nothing: ``"drop"``, or one that is not known.
    """
    if baseline == "blur":
        return blurred_still(pixels, blur_sigma)
    if baseline == "mean":
        return baseline_pixels(pixels, baseline)
    raise InputError(f"baseline={baseline!r} paints no pixels; the ones that do are blur and mean")


def blurred_still(
    pixels: Float[Tensor, "batch frame channel height width"], sigma: float
) -> Float[Tensor, "batch frame channel height width"]:
    """Return a still without detail or motion: the mean frame, blurred in space, at every time.

    A blur of each frame alone would leave what moves moving, and a weak blur in time leaves its direction. The mean
    frame is the limit of the blur in time: it is the same for a clip and for the clip reversed or shuffled in time, so
    no evidence that lies in motion is left.

    Args:
        pixels: normalised pixels.
        sigma: standard deviation of the Gaussian, as a fraction of the image's height and width, each its own. At
            the borders the weights that fall outside are left out and the others sum to 1.
    """
    return blur(pixels.mean(dim=1, keepdim=True), sigma).expand_as(pixels)
