"""2D CNNs with temporal operators; `create_model` builds one."""

from vsn_train.models.recognizer import Recognizer, create_model

__all__ = ["Recognizer", "create_model"]
