"""From bytes or named values to a model's input: the transforms that training and serving share.

Nothing in this package imports BentoML, a web framework or the settings, so that a training script or a notebook can
import exactly the transform that serving uses.
"""
