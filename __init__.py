"""VIOLET video-language models."""
