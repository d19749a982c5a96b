"""What examples need that run beside torch for CPUs from PyPI; a user's own environment needs none of it.

The torchvision of PyPI is built for CUDA and cannot be imported here, and Lightning and transformers import it wherever
it is installed: it reads as not installed. torchtitan's kernels for mixtures of experts need triton, and its Llama does
not use them.
"""

import importlib.metadata as metadata
import importlib.util
import sys
from types import ModuleType

_known = metadata.Distribution.from_name


def _from_name(name: str) -> metadata.Distribution:
    if name == "torchvision":
        raise metadata.PackageNotFoundError(name)
    return _known(name)


metadata.Distribution.from_name = staticmethod(_from_name)
sys.modules["torchvision"] = None
if importlib.util.find_spec("triton") is None:
    kernels = ModuleType("torchtitan.models.moe.kernels")
    kernels.generate_permute_indices = None
    sys.modules[kernels.__name__] = kernels
