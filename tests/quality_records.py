from instruct.core.records import Example
from instruct.quality.settings import FINDINGS, Gate, Gates, QualityParams


def example(output="An owl.", instruction="Name a bird.", input="", id="r", kind=""):
    return Example(id=id, instruction=instruction, input=input, output=output, kind=kind)


def gates(max_share=1.0, action="warn", **others):
    """The same gate for every finding but those in `others`."""
    gate = Gate(max_share=max_share, action=action)
    return Gates(**{name: others.get(name, gate) for name in FINDINGS})


def params(listed=20, token_sample=1000, **others):
    return QualityParams(listed=listed, token_sample=token_sample, gates=gates(**others))


def found(hits, finding=None):
    """The findings of hits, or the fields in which one finding was made."""
    return [hit.field for hit in hits if hit.finding == finding] if finding else [hit.finding for hit in hits]
