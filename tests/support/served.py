"""A file on offer and its place in its story.

`tests.support.origin` keeps one for each name; all its connections share it. A step is taken under a lock, so
parallel requests take one each, in the order in which they came.
"""

import random
import threading
from dataclasses import replace

from tests.support.answers import RequestHead
from tests.support.content import Representation, Resource
from tests.support.story import Step, Story


class Served:
    """A resource with its place in its story. All connections share it."""

    def __init__(self, name: str, resource: Resource, story: Story) -> None:
        self.name = name
        self.resource = resource
        self.story = story
        self.generation = 0
        self.position = 0
        self.lock = threading.Lock()

    def take(self, head: RequestHead) -> tuple[Representation, Step]:
        """The step for this request, and the file as it is after that step changed it or not."""
        with self.lock:
            step = Step()
            if self.story.counts(head.method, head.peek):
                step = self.story.step(self.position)
                # A last step repeats for ever, but `2M drop, change` tells of one change, not of one per
                # request.
                self.generation += step.change and self.position < len(self.story.steps)
                self.position += 1
            if step.on_range and head.range is None:
                step = Step()
            if step.until_bytes is not None:
                drawn = random.Random(f"{self.name} {self.position}").randint(step.after_bytes or 0, step.until_bytes)
                step = replace(step, after_bytes=drawn)
            return Representation(self.name, self.resource, self.generation), step

    def tell(self, story: Story) -> None:
        """Begin another story; the file stays as it is."""
        with self.lock:
            self.story, self.position = story, 0

    def change(self) -> None:
        """Give the file other bytes of the same size and other validators."""
        with self.lock:
            self.generation += 1
