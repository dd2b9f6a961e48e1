"""What the guard refuses, and what it must not refuse: only what a score never saw may differ."""

import json
import random
from dataclasses import replace
from hashlib import md5

import pytest
import yaml
from comparing.small_runs import write_lock, write_run
from results.sample import IDENTITY, TEST, answer, make_run

from instruct.comparing.compare import NotComparableError, compare
from instruct.comparing.guard import find_changes
from instruct.core.errors import DataError
from instruct.core.files import parse_csv, write_csv
from instruct.evaluation.reference import signatures
from instruct.evaluation.summary import describe_test
from instruct.results.runs import read_run

SCORES = [float(i) for i in range(40)]
HIGHER = [score + 9 + score % 3 for score in SCORES]
MEASURES = ("accuracy", "similarity", "exact_match", "token_f1", "rouge_l", "chrf")


def run(name, scores=("similarity", "chrf"), *, values=SCORES, md5s=None, **fields):
    both = {score: {"base": [10.0] * 40, "sft": list(values)} for score in scores}
    return make_run(name, both, md5s=md5s or {"sft": md5(name.encode()).hexdigest()}, **fields)


def refusals(a, b, scores):
    return list(find_changes(a, b, scores))


def test_a_template_that_no_judge_shows_is_the_recipes_own_affair():
    """The recipe phi3-template: similarity is of the answer and the reference, whatever the prompt looked like."""
    other = {**TEST, "template": "phi3", "template_sha256": "e" * 64}
    a, b = run("a"), run("b", values=HIGHER, test=other)
    assert compare([a], [b]).scores[0].verdict == "higher"
    judged = [
        run(name, ("llama", "similarity"), identities={"llama": IDENTITY}, test=test)
        for name, test in (("a", TEST), ("b", other))
    ]
    assert any(line.startswith("the template: alpaca") for line in refusals(*judged, ["llama", "similarity"]))
    assert refusals(*judged, ["similarity"]) == []


def of_pairs(one):
    """The run as a judge of pairs left it."""
    judges = tuple(
        replace(judge, systems=tuple(replace(system, orders=40, consistent=40) for system in judge.systems))
        for judge in one.results.judges
    )
    return replace(one, results=replace(one.results, judges=judges))


@pytest.mark.parametrize(("digests", "same"), [(("1", "1"), True), (("1", "2"), False), (("", ""), False)])
def test_a_win_share_is_comparable_over_the_same_answers_only(digests, same):
    sides = [
        run(name, ("llama",), identities={"llama": IDENTITY}, md5s={"base": digest, "sft": name})
        for name, digest in zip("ab", digests, strict=True)
    ]
    assert refusals(*sides, ["llama"]) == []  # a judge of single answers never saw them
    lines = refusals(*map(of_pairs, sides), ["llama"])
    assert (lines == []) == same
    assert all(line.startswith("what the judge llama compared with: base's answers") for line in lines)


@pytest.mark.parametrize(("of_base", "of_sft"), [(("1", "1"), ("1", "2")), (("1", "2"), ("1", "1"))])
def test_a_win_share_over_the_model_before_is_comparable_over_that_models_answers_only(of_base, of_sft):
    """The judge of two trained models never saw the baseline that everything else is compared with."""
    sides = [
        make_run(
            name,
            {"chrf": {"base": SCORES, "sft": SCORES, "dpo": HIGHER}, "llama": {"sft": SCORES, "dpo": HIGHER}},
            identities={"llama": IDENTITY}, md5s={"base": base, "sft": sft, "dpo": name},
        )
        for name, base, sft in zip("ab", of_base, of_sft, strict=True)
    ]  # fmt: skip
    assert {one.results.against for one in sides} == {"base"}
    lines = refusals(*map(of_pairs, sides), ["llama"])
    assert (lines == []) == (of_sft[0] == of_sft[1])
    assert all(line.startswith("what the judge llama compared with: sft's answers") for line in lines)


@pytest.mark.parametrize(("digests", "same"), [(("1", "1"), True), (("1", ""), False), (("", ""), False)])
def test_two_digests_that_are_empty_are_not_the_same(digests, same):
    sides = [
        run(name, ("llama",), identities={"llama": {**IDENTITY, "digest": digest}})
        for name, digest in zip("ab", digests, strict=True)
    ]
    assert (refusals(*sides, ["llama"]) == []) == same
    empty = [run(name, md5s={"sft": ""}) for name in "ab"]
    assert not compare(empty[:1], empty[1:]).identical


WEIGHTS = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1"
TOLD = {"version": "0.33.0", "quantization": "Q4_0"}


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        (({"digest": WEIGHTS, **TOLD}, {"digest": WEIGHTS[:12]}), []),
        (({"digest": WEIGHTS[:12]}, {"digest": f"sha256:{WEIGHTS}", **TOLD}), []),
        (({"digest": WEIGHTS[:30], "version": "0.33.0"}, {"digest": WEIGHTS, **TOLD}), []),
        (({"digest": WEIGHTS, **TOLD}, {"digest": WEIGHTS, **TOLD, "version": "0.34.0"}), ["version"]),
        (({"digest": WEIGHTS, **TOLD}, {"digest": "0" * 12}), ["digest", "quantization", "version"]),
        (({"digest": WEIGHTS}, {"digest": WEIGHTS[:20] + "0" * 44}), ["digest"]),
        (({"digest": "llama-70b@2026-01"}, {"digest": "llama-70b@2026-02"}), ["digest"]),
        (({"digest": "", **TOLD}, {"digest": ""}), ["digest", "quantization", "version"]),
        (({"digest": WEIGHTS, "schema": "none"}, {"digest": WEIGHTS[:12]}), ["schema"]),
    ],
)
def test_a_judge_with_pinned_weights_is_the_same_judge_as_without_the_pin(fields, changed):
    usual = {key: text for key, text in IDENTITY.items() if key not in ("digest", *TOLD)}
    sides = [
        run(name, ("llama",), identities={"llama": {**usual, **told}}) for name, told in zip("ab", fields, strict=True)
    ]
    lines = refusals(*sides, ["llama"])
    assert [line.removeprefix("the judge llama: ").split()[0] for line in lines] == changed


@pytest.mark.parametrize("changed", ["accuracy.checks", "exact_match", "token_f1", "rouge_l", "chrf"])
def test_every_measure_has_a_signature_and_another_one_stops_only_what_it_is_part_of(changed):
    usual = dict.fromkeys(("accuracy.checks", "exact_match", "token_f1", "rouge_l", "chrf"), "one")
    a, b = (run(name, MEASURES, signatures=told) for name, told in (("a", usual), ("b", {**usual, changed: "other"})))
    own = changed.partition(".")[0]
    concerned = {name for name in MEASURES if refusals(a, b, [name])}
    assert concerned == {own} | ({"similarity"} if own != "accuracy" else set())


def test_the_token_rule_is_in_the_signatures(monkeypatch):
    before = signatures()
    assert set(before) == {"bleu", "chrf", "exact_match", "token_f1", "rouge_l"} and signatures() == before
    monkeypatch.setattr("instruct.evaluation.reference.tokens", str.split)
    after = signatures()
    assert {name for name in before if before[name] != after[name]} == {"token_f1", "rouge_l"}


def test_the_same_test_set_in_another_order_or_with_other_line_ends_is_the_same():
    responses = [answer(f"r{i}", "x", instruction=f"Ask\nthing {i}", output=f"right\n{i}") for i in range(9)]
    windows = [replace(one, instruction=one.instruction.replace("\n", "\r\n"), output=one.output.replace("\n", "\r\n"))
               for one in responses]  # fmt: skip
    shuffled = random.Random(1).sample(windows, len(windows))
    digest = describe_test(responses, "alpaca").sha256
    assert describe_test(shuffled, "alpaca").sha256 == digest
    other = [replace(responses[0], output="wrong"), *responses[1:]]
    assert describe_test(other, "alpaca").sha256 != digest


@pytest.fixture
def folder(tmp_path):
    """A run with a lock: generate makes data/responses.json, evaluate reads it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/responses.json").write_text("[]\n")
    digest = md5(b"[]\n").hexdigest()
    write_run(tmp_path, {"similarity": SCORES}, md5s={"sft": digest})
    write_lock(tmp_path, outs=["metrics/evaluate.json", "metrics/scores.csv"])
    lock = yaml.safe_load((tmp_path / "dvc.lock").read_text())
    file = {"path": "data/responses.json", "hash": "md5", "md5": digest}
    lock["stages"]["generate"] = {"cmd": "true", "outs": [dict(file)]}
    lock["stages"]["evaluate"]["deps"] = [dict(file)]
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    return tmp_path


def rewrite_lock(folder, change):
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    change(lock["stages"])
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))


@pytest.mark.parametrize("path", ["metrics/evaluate.json", "metrics/scores.csv", "params.yaml", "dvc.lock"])
def test_files_with_other_line_ends_are_the_same(folder, path):
    assert read_run("workspace", folder).stale == ()
    (folder / path).write_bytes((folder / path).read_bytes().replace(b"\n", b"\r\n"))
    assert read_run("workspace", folder).stale == ()


def test_answers_edited_by_hand_and_judged_are_stale(folder):
    """`dvc repro --single-item evaluate` judges them, and writes what it read into dvc.lock."""
    edited = md5(b"better").hexdigest()
    rewrite_lock(folder, lambda stages: stages["evaluate"]["deps"][0].update(md5=edited))
    (line,) = read_run("workspace", folder).stale
    assert line.startswith("data/responses.json, as evaluate read it, is not what its own stage made (dvc.lock)")


@pytest.mark.parametrize("digest", ["", None])
def test_an_output_without_a_digest_fits_nothing(folder, digest):
    rewrite_lock(folder, lambda stages: stages["generate"]["outs"][0].update(md5=digest))
    assert any("data/responses.json is not the one of dvc.lock" in line for line in read_run("workspace", folder).stale)


@pytest.mark.parametrize("edit", ["1.5", ""])
def test_scores_that_are_not_those_of_the_results_are_refused(folder, edit):
    (folder / "dvc.lock").unlink()
    path = folder / "metrics/scores.csv"
    columns, rows = parse_csv(path.read_text(encoding="utf-8"), str(path))
    rows[7]["reference_sft"] = edit
    write_csv(path, columns, rows)
    with pytest.raises(DataError, match=r"^metrics/scores.csv of workspace: reference_sft has .*metrics/evaluate.json"):
        read_run("workspace", folder)


def test_a_mean_that_is_not_that_of_the_scores_is_refused(folder):
    (folder / "dvc.lock").unlink()
    path = folder / "metrics/evaluate.json"
    results = json.loads(path.read_text())
    results["systems"][1]["measures"]["chrf"] += 1
    path.write_text(json.dumps(results))
    with pytest.raises(DataError, match=r"^metrics/scores.csv of workspace: chrf_sft has 40 scores with mean 50.0000"):
        read_run("workspace", folder)


def test_the_guard_speaks_before_any_number(folder):
    with pytest.raises(NotComparableError):
        compare([run("a")], [run("b", test={"sha256": "d" * 64})])
