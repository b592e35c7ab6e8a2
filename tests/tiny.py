"""The smallest component that a server can serve."""

from collections.abc import Sequence

from serving.components.base import Call, Component
from serving.photos import Photo
from serving.problems import Problem


class Tiny(Component):
    """Answers whoever sends a photo; one that begins with `bad` has a problem, one with `down` is the server's."""

    name = "classy"
    takes = ("photo", "sender")
    optional = ("sender",)
    gives = ("label", "error")

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        with call.stage("classifier"):
            for photo in photos:
                data = photo.photo or b""
                if data.startswith(b"bad"):
                    photo.problem = Problem("unprocessable", "it is cut off", detail="truncated")
                elif data.startswith(b"down"):
                    photo.problem = Problem("unavailable", "the store is away")
                else:
                    photo.label, photo.arm, photo.model_version = "shoe", "champion", "3"
                    photo.defaulted = not photo.sender
                    photo.seconds["model"] = 0.003
