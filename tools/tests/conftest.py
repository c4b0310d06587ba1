"""The fixtures of tests/ serve here too; and the base before any training."""

import pytest
from conftest import composer, one_thread

from tools.pretraining.architecture import make_model
from tools.pretraining.tokenizer import make_processor

__all__ = ["composer", "one_thread"]


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor, 0).eval()
