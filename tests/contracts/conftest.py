"""The world of contracts that every test here starts from."""

from tests.contracts.office import office  # noqa: F401 - a fixture
from tests.contracts.world import _world, world  # noqa: F401 - fixtures
