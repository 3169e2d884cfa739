"""Installs the library (mindone) and the Open-Sora example (opensora) with its console command."""

import os
import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
EXAMPLE = "examples/opensora_hpcai"
# Flags of the compiler for each kind of processor; the names are those of mindone/nn/kernels/library.py. Compilers
# before GCC 11 do not know x86-64-v3 and x86-64-v4.
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl")), "-mprefer-vector-width=512"]
KERNELS = {"x86_64": {"avx512": AVX512, "avx2": AVX2}, "aarch64": {"neon": []}}
# GCC's own headers for AVX-512 read what is not initialised, on purpose.
WARNINGS = ["-Wall", "-Wextra", "-Wno-maybe-uninitialized"]
# For tests: a warning, or no library, is an error. Compilers that users have may warn of more than ours.
STRICT = os.environ.get("MINDONE_WERROR") == "1"

PLOT = "matplotlib>=3.7,<4"
# Tables as Parquet; 26 asks for numpy 2, with which MindSpore fails.
PARQUET = "pyarrow>=15,<26"
# Scenes of films, and text in pictures with the models in the wheel; opencv 4.12 and later ask for numpy 2.
CURATION = [
    "scenedetect-headless>=0.7,<0.8",
    "rapidocr>=3.3,<4",
    "onnxruntime>=1.20,<2",
]
# The site of the documentation, and notebooks that tests run.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10"]
NOTEBOOKS = ["nbclient>=0.10,<1", "ipykernel>=6.29,<8"]

# Videos by HTTP, and the page: gradio brings starlette, uvicorn and python-multipart.
WEB = "gradio>=6,<7"


def requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def kernels() -> list[Extension]:
    """The CPU kernels, one library for each kind of processor; without a compiler they are left out."""
    folder = Path("mindone/nn/kernels/csrc")
    common = ["-std=c++17", "-O3", "-fno-math-errno", "-fopenmp-simd", "-fvisibility=hidden", "-pthread"]
    common += [*WARNINGS, "-Werror"] if STRICT else WARNINGS
    sources, headers = (sorted(map(str, folder.glob(pattern))) for pattern in ("*.cc", "*.h"))
    return [
        Extension(
            f"mindone.nn.kernels._kernels_{name}",
            sources,
            depends=headers,
            extra_compile_args=[*common, *flags],
            extra_link_args=["-pthread"],
            language="c++",
            optional=not STRICT,
        )
        for name, flags in KERNELS.get(platform.machine(), {}).items()
    ]


setup(
    name="mindone",
    version="0.1.0",
    description="Diffusion models on MindSpore: Open-Sora 1.0 to 2.0, proven against the originals, on Ascend and CPU",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["mindone", "mindone.*"])
    + find_packages(EXAMPLE, include=["opensora", "opensora.*"])
    + ["mindone.configs"],
    package_dir={"opensora": f"{EXAMPLE}/opensora", "mindone.configs": "configs"},
    package_data={"mindone.configs": ["*.yaml"]},
    ext_modules=kernels(),
    install_requires=requirements(),
    extras_require={
        "test": [
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.6,<1",
            "codespell>=2.3,<3",
            PLOT,
            PARQUET,
            WEB,
            "playwright>=1.45,<2",
            *CURATION,
            *DOCS,
            *NOTEBOOKS,
        ],
        "docs": DOCS,
        "plot": [PLOT],
        "curation": CURATION,
        "web": [WEB],
        "data": [PLOT, PARQUET],
        "decord": ["decord>=0.6,<1"],
        "bench": ["torch>=2.3,<3"],
    },
    entry_points={
        "console_scripts": ["opensora = opensora.cli:main"],
        "pytest11": ["mindone = mindone.testing.pytest_plugin"],
    },
)
