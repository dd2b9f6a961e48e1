"""The prompts of the base model, by system; systems that are impossible are left out with the reason."""

from collections.abc import Callable, Mapping, Sequence

from instruct.baselines.chat import OwnChat
from instruct.baselines.settings import Baseline, BaselineParams
from instruct.baselines.shots import ShotsAsText, choose_shots, most_that_fit
from instruct.core.errors import DataError
from instruct.core.records import Example
from instruct.model.chat_template import ChatTemplate
from instruct.text.encoding import encode_prompt
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer

Way = Template | OwnChat | ShotsAsText


class Ways:
    """How each system asks, and lines about systems that are left out or have fewer examples."""

    def __init__(
        self, template: Template, own: ChatTemplate | None, tokenizer: Tokenizer, params: BaselineParams
    ) -> None:
        self._template, self._own, self._tokenizer, self._params = template, own, tokenizer, params
        self.lines: list[str] = []

    def all(self, train: Sequence[Example], test: Sequence[Example], room: int) -> dict[Baseline, Way]:
        """The systems that need a model, in the order of the settings; prompts have at most `room` tokens."""
        make: Mapping[Baseline, Callable[[], Way | None]] = {
            "template": lambda: self._template,
            "chat": self._chat,
            "few-shot": lambda: self._few_shot(train, test, room),
        }
        found = {name: make[name]() for name in self._params.systems if name in make}
        return {name: way for name, way in found.items() if way is not None}

    def _chat(self) -> Way | None:
        if self._own is None:
            self.lines.append("chat is left out: the backbone has no chat template of its own")
            return None
        return OwnChat(self._own, self._tokenizer)

    def _few_shot(self, train: Sequence[Example], test: Sequence[Example], room: int) -> Way | None:
        shots = choose_shots(train, test, self._params)
        number = most_that_fit(len(shots), lambda number: self._longest(shots[:number], test), room)
        wanted = self._params.shots
        if len(shots) < wanted:
            self.lines.append(
                f"few-shot: {len(shots)} of {wanted} examples; all other training records resemble them "
                "or a test record"
            )
        if number < len(shots):
            self.lines.append(
                f"few-shot: {number} of {wanted} examples; with more, the longest prompt has over {room} tokens"
            )
        if not number:
            self.lines.append("few-shot is left out: there is no example for it")
            return None
        return self._with_shots(shots[:number])

    def _with_shots(self, shots: Sequence[Example]) -> Way:
        if self._own is None:
            return ShotsAsText(template=self._template, shots=shots)
        return OwnChat(self._own, self._tokenizer, shots)

    def _longest(self, shots: Sequence[Example], test: Sequence[Example]) -> int:
        way = self._with_shots(shots)
        return max(self._length(way, one) for one in test)

    def _length(self, way: Way, one: Example) -> int:
        try:
            return len(encode_prompt(self._tokenizer, way.prompt(one.turns, one.system)))
        except DataError as error:
            raise DataError(f"record {one.id}: {error}") from None
