"""The requests that clients may send; an unknown field, a wrong type or a value out of range is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StrictStr, Tag

from instruct.serving.messages import Said

LONGEST_SEED = 1 << 63


def _neutral(value: Any) -> Any:
    if value:
        raise ValueError("this server does not support it; leave it out")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("contains half of a surrogate pair, which is not text") from None
    return value


def _form(value: Any) -> str | None:
    """Which of FORMS a value has, judged by its first element; None if it has none of them."""
    if isinstance(value, str):
        return "a text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    if isinstance(first, list):
        return "lists of tokens"
    return "token ids" if isinstance(first, int | float) else "a list"


def _one_of(wanted: str) -> Discriminator:
    """Chooses by the form, so that an error is about what the client meant; other values are told what is `wanted`."""
    return Discriminator(_form, custom_error_type="form", custom_error_message=f"must be {wanted}")


FORMS = ("a text", "a list", "token ids", "lists of tokens")  # no names of fields, which have no blanks
Text = Annotated[StrictStr, AfterValidator(_text)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=256), AfterValidator(_text)]
Neutral = Annotated[float | None, AfterValidator(_neutral)]
Unsupported = Annotated[Any, AfterValidator(_neutral)]


class Strict(BaseModel):
    """Refuses unknown fields, converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """Options of a stream: `include_usage` ends it with a chunk that counts tokens."""

    include_usage: bool = False


class Sampling(Strict):
    """The fields of both kinds of request; omitted ones default to `generate` in params.yaml."""

    model: Text
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-LONGEST_SEED, lt=LONGEST_SEED)] | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag("a text")] | Annotated[list[Stop], Field(max_length=16), Tag("a list")],
            _one_of("a text or a list of texts"),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None  # vLLM's and llama-server's: answer to the full length
    user: Text | None = None  # a label without effect
    frequency_penalty: Neutral = None
    presence_penalty: Neutral = None
    logit_bias: Annotated[dict[str, float] | None, AfterValidator(_neutral)] = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def counts_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def idle(self) -> tuple[str, str] | None:
        """A field that has no effect, and the one that it would need to be true."""
        return ("stream_options", "stream") if self.stream_options and not self.stream else None


class TextPart(Strict):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One message; lm-eval also sends its type, and the SDK the empty fields of an answer that becomes a message."""

    role: Text
    content: Annotated[
        Annotated[Text, Tag("a text")] | Annotated[list[TextPart], Tag("a list")],
        _one_of("a text or a list of parts of type text"),
    ]
    type: Literal["text"] | None = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None

    def said(self) -> Said:
        """The message with its parts as one text."""
        parts = self.content
        whole = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return Said(role=self.role, content=whole)


class ChatRequest(Sampling):
    """`/v1/chat/completions`; `input` is the data set's field, for templates that have a place for it."""

    messages: list[Message]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    input: Text = ""

    @property
    def best(self) -> int | None:
        """How many alternatives to return per token; None if no probabilities are requested."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def idle(self) -> tuple[str, str] | None:
        """See `Sampling`."""
        return ("top_logprobs", "logprobs") if self.top_logprobs and not self.logprobs else super().idle


Token = Annotated[int, Field(ge=0)]


class CompletionRequest(Sampling):
    """`/v1/completions`: the prompt as a text, which the begin token of the family precedes, or as token ids."""

    prompt: Annotated[
        Annotated[Text, Tag("a text")]
        | Annotated[list[Text], Tag("a list")]
        | Annotated[list[Token], Tag("token ids")]
        | Annotated[list[list[Token]], Tag("lists of tokens")],
        _one_of("a text, a list of texts, token ids, or a list of lists of them"),
    ]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: Annotated[Text | None, AfterValidator(_neutral)] = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """All prompts, each a text or its token ids."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[one for one in given if isinstance(one, int)]]
        return [one for one in given if not isinstance(one, int)]


class TokenizeRequest(Strict):
    """`/tokenize`: a text, or messages through the template; `add_special_tokens: false` leaves a text as it is."""

    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = None
    input: Text = ""
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    with_token_strs: bool | None = None


class DetokenizeRequest(Strict):
    """`/detokenize`: token ids to text."""

    model: Text | None = None
    tokens: list[Token]
