# The index of vivit_lab.bench: read when it runs, and by type checkers and editors.
from vivit_lab.bench.decode import bench_decode as bench_decode
from vivit_lab.bench.suites import bench_attention as bench_attention
from vivit_lab.bench.suites import bench_cost as bench_cost
from vivit_lab.bench.suites import bench_inference as bench_inference
from vivit_lab.bench.suites import bench_rollout as bench_rollout
from vivit_lab.bench.suites import bench_training as bench_training
from vivit_lab.bench.table import BenchTable as BenchTable
