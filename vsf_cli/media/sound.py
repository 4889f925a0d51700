"""The sound of a video."""

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["Sound"]


@dataclass(frozen=True)
class Sound:
    """A sound.

    Arguments:
        samples: Values of -1 to 1, with shape (channels, samples); those beyond are cut.
        rate: Samples per second of each channel.
    """

    samples: "ndarray"
    rate: int

    def after(self, seconds: float) -> "Sound":
        """Returns the sound from a time on."""
        return Sound(self.samples[:, round(seconds * self.rate) :], self.rate)

    def until(self, seconds: float) -> "Sound":
        """Returns the sound up to a time."""
        return Sound(self.samples[:, : round(seconds * self.rate)], self.rate)

    def write(self, path: Path) -> None:
        """Writes a WAV file with 16 bits a sample."""
        whole = (self.samples.clip(-1, 1) * 32767).round().astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(len(whole))
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(whole.T.tobytes())
