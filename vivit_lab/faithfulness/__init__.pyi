# The index of vivit_lab.faithfulness: read when it runs, and by type checkers and editors.
from vivit_lab.faithfulness.controls import CentreGaussian as CentreGaussian
from vivit_lab.faithfulness.controls import FrameDifference as FrameDifference
from vivit_lab.faithfulness.controls import RandomMap as RandomMap
from vivit_lab.faithfulness.evaluation import EvaluationPlan as EvaluationPlan
from vivit_lab.faithfulness.evaluation import evaluate as evaluate
from vivit_lab.faithfulness.localisation import localise as localise
from vivit_lab.faithfulness.masking import forward_kept_tokens as forward_kept_tokens
from vivit_lab.faithfulness.measures import Infidelity as Infidelity
from vivit_lab.faithfulness.measures import Perturbation as Perturbation
from vivit_lab.faithfulness.measures import SaCo as SaCo
from vivit_lab.faithfulness.measures import SensitivityN as SensitivityN
from vivit_lab.faithfulness.report import FaithfulnessReport as FaithfulnessReport
from vivit_lab.faithfulness.sanity import check_sanity as check_sanity
