"""What a recipe costs: parameters and FLOPs (counted on shapes alone) and time and memory (measured).

`profile_recipe` needs no weights and no accelerator; `bench_recipe` runs the model on the device it is given. The
modality integration rate of a trained model is in `proxyv.profiling.mir`.
"""

from proxyv.profiling.bench import bench_recipe
from proxyv.profiling.flops import profile_recipe

__all__ = ["bench_recipe", "profile_recipe"]
