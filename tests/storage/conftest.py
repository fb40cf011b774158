"""What several tests of the store need."""

import pytest

from leveret.broker.storage.sqlite import SQLiteStore


@pytest.fixture
async def store(tmp_path):
    """A store that is open."""
    made = SQLiteStore(tmp_path / "data")
    await made.open()
    yield made
    await made.close()
