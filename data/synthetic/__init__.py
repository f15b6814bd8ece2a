"""A procedural drive with exact truth, rendered with numpy and OpenCV alone."""

from data.synthetic.drive import Drive, SyntheticFrame

__all__ = ["Drive", "SyntheticFrame"]
