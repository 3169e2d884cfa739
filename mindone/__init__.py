"""mindone: layers, models, diffusion, training and checkpoint code for MindSpore, on Ascend and on a CPU.

Importing the package imports nothing else: data workers and command-line help start without MindSpore.
"""

__version__ = "0.1.0"
