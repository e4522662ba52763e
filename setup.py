from pathlib import Path

from setuptools import find_packages, setup

about = Path("cmems/__init__.py").read_text(encoding="utf-8")
setup(
    name="cmems",
    version=about.split('__version__ = "')[1].split('"')[0],
    description="Medical image segmentation from one labelled slice",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["cmems", "cmems.*"]),
    # The folder of configs lies at the root of the repository; a link brings it to where MMEngine looks.
    package_data={
        "cmems": ["py.typed", "examples/*.py"],
        "cmems.configs": [".mim/*.yml", ".mim/configs/**/*.py"],
        "cmems.ops": ["*.cpp", "*.h"],
        "cmems.visualization.page": ["*.html"],
    },
    entry_points={"console_scripts": ["cmems = cmems.cli:main"]},
    author="The CMEMS maintainers",
    keywords="medical image segmentation, one-shot, semi-supervised, MMEngine, PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12)),
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    install_requires=[
        "torch>=2.4",
        "mmengine>=0.10.7,<0.11",
        "mmcv-lite>=2.0",
        "numpy>=1.26",
        "scipy>=1.11",
        "nibabel>=5.2",
        "h5py>=3.10",
        "opencv-python>=4.9",
        "prettytable>=3.10",
        "matplotlib>=3.8",
        "pillow>=10",
        "rich>=13",
        "filelock>=3.12",
        "setuptools>=70.1,<81",
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.6", "pytest-cov>=7", "ruff>=0.9", "MedPy>=0.5.2", "hypothesis>=6.100"]
        + ["pynrrd>=1.1", "pydicom>=3", "highdicom>=0.27"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"],
        "timm": ["timm>=1.0"],
        "slurm": ["submitit>=1.5"],
        "formats": ["pynrrd>=1.1"],
        "dicom": ["pydicom>=3", "highdicom>=0.27"],
        "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    },
)
