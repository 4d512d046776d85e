"""Audio encoders: what turns sound into states. A new one is a file here and a line of `AUDIO_ENCODERS`."""

from .sound_side import AUDIO_ENCODERS, VioletSoundSide, build_sound_side

__all__ = ["AUDIO_ENCODERS", "VioletSoundSide", "build_sound_side"]
