"""2D networks made temporal. `create_model` is the way in."""

from vsn_train.models.recognizer import Recognizer, create_model

__all__ = ["Recognizer", "create_model"]
