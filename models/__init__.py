"""Classifiers by name, their published checkpoints, and generators.

from models import create_model, load_teacher
"""

from models.architectures import create_model, model_names
from models.classifiers import load_teacher, make_student

__all__ = ["create_model", "load_teacher", "make_student", "model_names"]
