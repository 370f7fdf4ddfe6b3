from tests.modules.conftest import make_data, make_module, make_trainer, words_data, words_module

__all__ = ["make_data", "make_module", "make_trainer", "words_data", "words_module"]
