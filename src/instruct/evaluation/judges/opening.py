"""From the settings to judges."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from instruct.evaluation.judges.base import Judge
from instruct.evaluation.judges.model import Asking, PairJudge, ScoreJudge
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.rubrics import find_rubric
from instruct.evaluation.settings import EvaluateParams, server_and_model
from instruct.servers.cache import ReplyCache, cache_file
from instruct.servers.opening import open_server
from instruct.servers.settings import ServersParams
from instruct.text.prompts import Template


@contextmanager
def open_judges(params: EvaluateParams, servers: ServersParams, template: Template) -> Iterator[dict[str, Judge]]:
    """The judges that the settings name; connects to nothing yet, and closes what they opened."""
    rubric = find_rubric(params.rubric)
    asking = Asking(
        repeats=params.repeats,
        temperature=params.temperature,
        seed=params.seed,
        expected=params.scoring == "expected",
    )
    make: type[PairJudge] | type[ScoreJudge] = PairJudge if rubric.kind == "pair" else ScoreJudge
    judges: dict[str, Judge] = {}
    with ExitStack() as stack:
        cache: ReplyCache | None = None
        for name in params.judges:
            found = server_and_model(name)
            if found is None:
                judges[name] = ReferenceJudge()
                continue
            if servers.cache and cache is None:
                cache = stack.enter_context(ReplyCache(cache_file()))
            server = open_server(servers, *found)
            stack.callback(server.close)
            judges[name] = make(
                name,
                server,
                rubric_name=params.rubric,
                rubric=rubric,
                template=template,
                asking=asking,
                cache=cache,
            )
        yield judges
