# The index of vivit_lab.records: read when it runs, and by type checkers and editors.
from vivit_lab.records.attention import AttentionRecord as AttentionRecord
from vivit_lab.records.attention import record_attention as record_attention
from vivit_lab.records.gradients import GradientRecord as GradientRecord
from vivit_lab.records.gradients import record_gradients as record_gradients
from vivit_lab.records.logits import LogitAttribution as LogitAttribution
from vivit_lab.records.logits import direct_logit_attribution as direct_logit_attribution
from vivit_lab.records.logits import logit_lens as logit_lens
from vivit_lab.records.targets import ClassLogit as ClassLogit
from vivit_lab.records.targets import CosineSimilarity as CosineSimilarity
from vivit_lab.records.targets import LogitDifference as LogitDifference
from vivit_lab.records.targets import OwnEmbedding as OwnEmbedding
from vivit_lab.records.targets import Probability as Probability
