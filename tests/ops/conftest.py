"""What tests of ops share."""

from __future__ import annotations

import pytest

from mlip.ops import Backend
from mlip.ops._library import LIBRARY


@pytest.fixture(params=["compiled", "reference"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each back end in turn."""
    if request.param == "compiled" and LIBRARY.path is None:
        pytest.skip(LIBRARY.problem)
    return request.param
