from tests.modules.conftest import double, make_data, make_module, make_trainer, words_data, words_module

__all__ = ["double", "make_data", "make_module", "make_trainer", "words_data", "words_module"]
