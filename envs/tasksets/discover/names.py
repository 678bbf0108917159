"""Names of distributions that the discovery knows: what is not for tests, import names, pytest plugins."""

from __future__ import annotations

__all__ = ["IMPORT_NAMES", "NOT_FOR_TESTS", "PLUGINS"]

# fmt: off
NOT_FOR_TESTS = frozenset((
    "bandit", "black", "build", "bump2version", "bumpversion", "check-manifest", "codecov", "commitizen", "coverage",
    "coveralls", "cython", "flake8", "flit", "flit-core", "furo", "hatch", "hatchling", "isort", "mike", "mkdocs",
    "mkdocs-material", "mypy", "nox", "pip", "pip-tools", "poetry", "poetry-core", "pre-commit", "pylint", "pyright",
    "pytest-cov", "pytest-mypy", "pytest-randomly", "pytest-sugar", "pytest-xdist", "pyupgrade", "ruff", "setuptools",
    "setuptools-scm", "sphinx", "sphinx-rtd-theme", "tox", "tox-uv", "twine", "types-setuptools", "uv", "wheel",
    "zest-releaser",
))
"""Tools that developers run beside the tests."""
IMPORT_NAMES = {
    "attr": "attrs", "bs4": "beautifulsoup4", "Crypto": "pycryptodome", "cv2": "opencv-python",
    "dateutil": "python-dateutil", "dotenv": "python-dotenv", "git": "gitpython", "jwt": "pyjwt",
    "OpenSSL": "pyopenssl", "PIL": "pillow", "pkg_resources": "setuptools", "sklearn": "scikit-learn",
    "slugify": "python-slugify", "yaml": "pyyaml",
}
"""Import name -> distribution, where they differ."""
PLUGINS = {
    "anyio": "anyio", "hypothesis": "hypothesispytest", "pytest-asyncio": "asyncio", "pytest-benchmark": "benchmark",
    "pytest-datadir": "pytest-datadir", "pytest-env": "env", "pytest-freezer": "freezer",
    "pytest-httpserver": "pytest_httpserver", "pytest-mock": "pytest_mock", "pytest-regressions": "regressions",
    "pytest-subtests": "subtests", "pytest-timeout": "timeout", "pytest-trio": "trio",
}
"""Distribution -> entry point of its pytest plugin: no plugin is loaded by itself."""
# fmt: on
