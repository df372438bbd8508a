# The index of vivit_lab.families: read when it runs, and by type checkers and editors.
from vivit_lab.families.auto import load_model as load_model
from vivit_lab.families.cost import ModelCost as ModelCost
from vivit_lab.families.cost import model_cost as model_cost
from vivit_lab.families.from_image import vivit_from_image_model as vivit_from_image_model
from vivit_lab.families.scenic import from_scenic as from_scenic
from vivit_lab.families.views import predict_views as predict_views
from vivit_lab.families.vivit import VivitForVideoClassification as VivitForVideoClassification
from vivit_lab.families.vivit import VivitModel as VivitModel
