"""Ollama's Modelfile. Without TEMPLATE and stops a model answers nonsense in Ollama, or never ends."""

from instruct.core.errors import ParamsError
from instruct.exporting.chat import go_template
from instruct.exporting.source import Source


def modelfile(source: Source, weights: str, context: int) -> str:
    """TEMPLATE, all stops, greedy decoding, context in tokens and licence for the GGUF file beside it.

    `repeat_penalty` 1 turns off an Ollama default that changes greedy answers too.
    """
    origin, template = source.origin, go_template(source.template, source.tokenizer)
    stops = (*source.template.stop_strings, *source.stop_tokens)
    made = f"instruct, commit {origin.commit or 'unknown'}, base model {origin.base or 'unknown'}"
    if '"""' in template or any('"' in stop for stop in stops):
        raise ParamsError(
            f"the template {source.template_name} contains quotes that a Modelfile cannot hold; choose another template"
        )
    lines = [
        f"# Made by {made}",
        f"FROM ./{weights}",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        "PARAMETER temperature 0",
        "PARAMETER top_k 1",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {context}",
    ]
    if origin.licence:
        lines.append(f'LICENSE """{origin.licence}"""')
    return "\n".join(lines) + "\n"
