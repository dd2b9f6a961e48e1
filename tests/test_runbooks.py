"""Every line of the blocks of RUNBOOKS.md is run, in the file's order, by the clones that its prompts name."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from console_blocks import steps_of as steps_of_block
from ruamel.yaml import YAML
from slurm_cluster import missing_programs, start_cluster
from small_pipeline import git, run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "RUNBOOKS.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^```console\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
# Commands in the text that no test runs: they bring packages and models from the network, or only show a list.
NOT_RUN = {
    "make install",
    "make repro",
    "git status",
    "instruct fetch",
    "instruct recipe",
    "pip install -e '.[export]'",
    *(f".venv/bin/pip install dvc-{s}" for s in ("s3", "ssh")),
}


def steps_of(title):
    """(prompt, command, lines that must come out) of a section; output that is not shown is not compared."""
    steps = steps_of_block("".join(SECTIONS[title]), r"(?:you|colleague|anywhere)\$")
    return [(step.prompt.removesuffix("$"), step.command, step.expected) for step in steps]


@pytest.fixture
def team(workplace, tmp_path):
    """Two clones of one bare repository, one with results, and a folder that is no clone."""
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(workplace), str(bare))
    git(workplace, "remote", "add", "origin", str(bare))
    git(workplace, "fetch", "--quiet")
    git(workplace, "branch", "--quiet", "--set-upstream-to", "origin/main")
    git(tmp_path, "clone", "--quiet", str(bare), str(tmp_path / "colleague"))
    (tmp_path / "anywhere").mkdir()
    return Team(tmp_path, bare)


class Team:
    def __init__(self, folder, bare):
        self.folder, self.places = folder, {"you": folder / "workplace"}
        self.places |= {name: folder / name for name in ("colleague", "anywhere")}
        self.names = {
            "https://git.example.org/team/instruct": str(bare),
            "/mnt/shared/instruct": str(folder / "shared"),
        }
        self.waiting = []

    def share(self):
        """What the first runbook sets up, for those that build on it."""
        self.follow("Share through a folder", until="dvc push --run-cache")

    def follow(self, title, until="", patience=(), **environment):
        """Run the commands up to `until`; what is run again for a while if it fails stands in `patience`."""
        said = ""
        for prompt, command, expected in steps_of(title):
            for name, value in self.names.items():
                command = command.replace(name, value)
            if command.endswith(" &"):
                self.waiting.append((command, self.start(prompt, command.removesuffix(" &"), environment)))
                continue
            done, tries = self.run(prompt, command, environment), 1
            while done.returncode and command in patience and tries < 60:
                time.sleep(0.5)
                done, tries = self.run(prompt, command, environment), tries + 1
            assert done.returncode == 0, f"{prompt}$ {command}\n{done.stdout}\n{done.stderr}"
            assert expected == [line for line in expected if line in done.stdout.splitlines()], command
            said += done.stdout
            if command == until:
                return said
        for command, process in self.waiting:
            out, _ = process.communicate(timeout=300)
            assert process.returncode == 0, f"{command}\n{out}"
        return said

    def run(self, prompt, command, environment):
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.places[prompt],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=1200,  # seven experiments on a machine that does other things too
        )

    def start(self, prompt, command, environment):
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.places[prompt],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_section_has_a_test_and_every_line_a_prompt():
    source = Path(__file__).read_text(encoding="utf-8")
    for title in SECTIONS:
        assert f'.follow("{title}"' in source, title
        assert steps_of(title), title
    anchors = re.findall(r"\(#([\w-]+)\)", TEXT)
    assert anchors == [title.lower().replace(" ", "-").replace(",", "") for title in SECTIONS]


def test_every_command_within_a_sentence_is_in_a_block_too_or_named_as_not_run():
    sentences = re.sub(r"^```console\n.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    commands = re.findall(r"`((?:dvc|git|gto|make|instruct|pip|torchrun|\.venv/bin/\w+) [^`]+)`", sentences)
    blocks = [command for title in SECTIONS for _, command, _ in steps_of(title)]
    unknown = {one for one in commands if not any(command.startswith(one) for command in blocks)}
    assert unknown == NOT_RUN


def test_a_folder_gives_a_colleague_everything(team):
    team.follow("Share through a folder")
    you, colleague = team.places["you"], team.places["colleague"]
    assert (colleague / "data/responses.json").read_bytes() == (you / "data/responses.json").read_bytes()
    assert (colleague / "models/sft/best/model.safetensors").is_file()
    assert not git(colleague, "status", "--porcelain")


@pytest.mark.slow
def test_hooks_push_data_with_every_git_push(team):
    team.share()
    team.follow("Push data with every git push")
    you, colleague = team.places["you"], team.places["colleague"]
    page = (you / "metrics/report/index.html").read_bytes()
    assert (colleague / "metrics/report/index.html").read_bytes() == page
    git(colleague, "checkout", "--quiet", "HEAD~1")
    assert (colleague / "metrics/report/index.html").read_bytes() == page  # the hooks are yours alone
    git(you, "checkout", "--quiet", "HEAD~1")
    assert (you / "metrics/report/index.html").read_bytes() != page


@pytest.mark.slow
def test_run_cache_spares_a_colleague_what_no_commit_names(team):
    team.follow("Share through a folder")
    colleague = team.places["colleague"]
    (colleague / "dvc.lock").unlink()
    done = run("dvc", "repro", cwd=colleague)
    assert done.returncode == 0, done.stderr
    cached = set(re.findall(r"Stage '(\w+)' is cached", done.stdout))
    assert cached >= {"baseline", "generate"}
    # What had to run again gave the same bytes.
    assert not git(colleague, "status", "--porcelain")


@pytest.mark.slow
def test_s3_gives_a_colleague_everything(team, s3_server):
    team.names |= {"https://s3.example.org": s3_server}
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    team.follow("Share through S3", **keys)
    colleague = team.places["colleague"]
    assert (colleague / "models/sft/best/model.safetensors").is_file()
    assert "testing" not in git(colleague, "log", "--patch", "--", ".dvc")


@pytest.fixture
def s3_server():
    """moto's S3 server with an empty bucket `team`."""
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed: pip install dvc-s3")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", "from moto.server import main; main()", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert server.poll() is None, "the S3 server did not start"
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/team", method="PUT"), timeout=5).close()
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_ssh_gives_a_colleague_everything(team, ssh_home):
    team.names |= {"/srv/instruct": str(team.folder / "srv")}
    team.follow("Share through SSH", HOME=str(ssh_home))
    colleague = team.places["colleague"]
    assert (colleague / "models/sft/best/model.safetensors").is_file()
    assert any((team.folder / "srv/files/md5").iterdir())
    assert "127.0.0.1" not in git(colleague, "log", "--patch", "--", ".dvc")


@pytest.fixture
def ssh_home(tmp_path):
    """A home folder from which `ssh data.example.org` reaches a server on this machine, with a key made for it."""
    pytest.importorskip("dvc_ssh", reason="dvc-ssh is not installed: pip install dvc-ssh")
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not program or not shutil.which("ssh-keygen"):
        pytest.skip("there is no sshd here: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what root's sshd asks for, and boot makes
    folder, port = tmp_path / "home" / ".ssh", free_port()
    folder.mkdir(parents=True, mode=0o700)
    for name in ("host", "key"):
        assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name), cwd=folder).returncode == 0
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    config = {
        "ListenAddress": "127.0.0.1", "Port": port, "HostKey": folder / "host", "PidFile": "none", "UsePAM": "no",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    (folder / "config").write_text(
        f"Host data.example.org\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder / 'key'}\n"
    )
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        for _ in range(100):
            assert server.poll() is None, (folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield folder.parent
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_clone_without_data_runs_and_fetches_only_what_changed(team):
    team.share()
    said = team.follow("Run only what changed")
    assert re.findall(r"Running stage '(\w+)'", said)[0] == "evaluate"
    assert not {"split", "train", "baseline", "generate"} & set(re.findall(r"Running stage '(\w+)'", said))
    fetched = {path.name for path in (team.places["colleague"] / "data").rglob("*.json")}
    assert "train.json" not in fetched


@pytest.mark.slow
def test_an_experiment_reaches_a_colleague_with_its_results(team):
    team.share()
    said = team.follow("Share an experiment")
    assert re.search(r"^\| metrics/train\.json +\|.*\d", said, re.MULTILINE)
    you, colleague = team.places["you"], team.places["colleague"]
    assert "epochs: 2" in (colleague / "params.yaml").read_text()
    (experiment,) = git(you, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/two-epochs").split()
    for name in ("metrics/train.json", "metrics/evaluate.json"):
        wanted = git(you, "show", f"{experiment}:{name}")
        assert (colleague / name).read_text() == wanted
        assert (you / name).read_text() == wanted  # on the branch that the colleague pushed
    assert git(you, "branch", "--show-current").strip() == "try-two-epochs"
    assert not git(you, "status", "--porcelain")


@pytest.mark.slow
def test_two_branches_that_changed_results_end_with_results_of_both(team):
    team.share()
    said = team.follow("Merge two branches that changed results")
    you = team.places["you"]
    settings = YAML(typ="safe").load(you / "params.yaml")
    assert (settings["evaluate"]["resamples"], settings["plot"]["examples"]) == (3000, 4)
    assert "UU dvc.lock" not in said and not git(you, "status", "--porcelain")
    assert len(git(you, "log", "--merges", "--format=%h").split()) == 0
    lock = YAML(typ="safe").load(you / "dvc.lock")["stages"]
    assert lock["evaluate"]["params"]["params.yaml"]["evaluate"]["resamples"] == 3000
    assert lock["plot"]["params"]["params.yaml"]["plot"]["examples"] == 4
    assert run("dvc", "status", cwd=you).stdout.strip() == "Data and pipelines are up to date."


@pytest.mark.slow
def test_a_model_is_fetched_by_version_and_by_stage(team):
    team.share()
    team.follow("Release a model")
    weights = (team.places["you"] / "models/sft/best/model.safetensors").read_bytes()
    for name in ("sft-1.0.0", "sft-prod"):
        assert (team.places["anywhere"] / name / "model.safetensors").read_bytes() == weights
    proof = json.loads((team.places["anywhere"] / "gguf-1.0.0/proof.json").read_text())
    assert proof["check"]["records"] == 8 and proof["agreement"]["prompts_of_the_same_tokens"] == 8
    metrics = (team.places["anywhere"] / "evaluate.json").read_bytes()
    assert metrics == (team.places["you"] / "metrics/evaluate.json").read_bytes()


@pytest.mark.slow
def test_sweeps_give_a_row_for_each_value(team):
    said = team.follow("Sweep a setting")
    table = [line for line in said.splitlines() if line.startswith("|")]
    columns = [name.strip() for name in table[0].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    named = {re.search(r"\[(.+)\]", row[0])[1]: dict(zip(columns, row, strict=True)) for row in rows if "[" in row[0]}
    assert set(named) == {"lr-1", "lr-2", "epochs", "prompt-loss-1", "prompt-loss-2", "lora", "template"}
    assert {float(named[name]["train.lr"]) for name in ("lr-1", "lr-2")} == {1e-4, 1e-3}
    assert named["epochs"]["train.epochs"] == "2"
    assert {float(named[f"prompt-loss-{i}"]["train.prompt_loss_weight"]) for i in (1, 2)} == {0.1, 1.0}
    assert (named["lora"]["train.lora.r"], named["template"]["prompt.template"]) == ("8", "phi3")
    assert all(float(row["best_val_loss"]) > 0 for row in named.values())
    assert not git(team.places["you"], "status", "--porcelain")


@pytest.mark.slow
def test_a_queue_is_worked_off_in_the_background(team):
    logs = "dvc queue logs slower --follow"
    said = team.follow("Sweep in the background", patience={logs})
    # The first command that shows these is `logs`, since the run itself is another process's.
    assert re.findall(r"Running stage '(\w+)'", said) == ["train", "generate", "evaluate", "plot"]
    assert re.search(r"slower +\S+ .*(Success|Running)", said)
    row = next(line for line in said.splitlines() if "[slower]" in line)
    assert "5e-05" in row
    assert not git(team.places["you"], "status", "--porcelain")


@pytest.mark.slow
def test_two_machines_train_as_one(team):
    one = (team.places["you"] / "metrics/curves/train.csv").read_text().splitlines()
    team.share()
    git(team.places["colleague"], "pull", "--quiet")
    team.names |= {"--master-addr first --master-port 29400": f"--master-addr 127.0.0.1 --master-port {free_port()}"}
    team.follow("Train on several machines", OMP_NUM_THREADS="1")
    two = (team.places["you"] / "metrics/curves/train.csv").read_text().splitlines()
    assert len(two) == len(one) > 2
    loss = one[0].split(",").index("loss")
    for row, wanted in zip(two[1:], one[1:], strict=True):
        assert float(row.split(",")[loss]) == pytest.approx(float(wanted.split(",")[loss]), rel=1e-4)
    lock = YAML(typ="safe").load(team.places["you"] / "dvc.lock")
    assert lock["stages"]["train"]["params"]["params.yaml"]["train"]["parallel"] == "ddp"
    # The second machine lent its processor and wrote nothing.
    assert not (team.places["colleague"] / "models/sft").exists()


@pytest.mark.slow
def test_a_cluster_runs_experiments_and_trains_one_run_on_two_nodes(team, cluster):
    you, column = team.places["you"], "best_val_loss"
    one = csv_column(you / "metrics/curves/train.csv", "loss")
    team.share()
    team.names |= {"29400": str(free_port())}
    said = team.follow("Run experiments on Slurm", OMP_NUM_THREADS="1", **cluster)
    # Each experiment ran with its own setting, and came back by way of the two remotes alone.
    rows = table_rows(said)
    assert set(rows) == {"lower-lr", "higher-lr", "two-epochs"}
    assert [float(rows[name]["train.lr"]) for name in ("lower-lr", "higher-lr")] == [1e-4, 1e-3]
    assert rows["two-epochs"]["train.epochs"] == "2"
    assert all(float(row[column]) > 0 for row in rows.values())
    pushed = git(you, "ls-remote", "origin", "refs/exps/*")
    assert all(pushed.count(f"/{name}\n") == 1 for name in rows)
    jobs = run("scontrol", "--oneliner", "show", "job", cwd=you, **cluster).stdout
    assert set(re.findall(r"ArrayTaskId=\d+ .*? NodeList=(\S+)", jobs)) == {"node1", "node2"}
    # One run on both nodes learns as one on a single machine does.
    two = csv_column(you / "metrics/curves/train.csv", "loss")
    assert len(two) == len(one) > 1 and two == pytest.approx(one, rel=1e-4)
    lock = (you / "dvc.lock").read_text()
    assert YAML(typ="safe").load(lock)["stages"]["train"]["params"]["params.yaml"]["train"]["parallel"] == "ddp"
    assert "srun torchrun --nnodes $SLURM_NNODES" in lock and socket.gethostname() not in lock.replace("srun", "")
    assert re.search(r" NumNodes=2 ", jobs)
    assert [line for line in git(you, "status", "--porcelain").splitlines() if line.startswith("??")] == []


def csv_column(path, name):
    head, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [float(row[head.index(name)]) for row in rows]


def table_rows(said):
    """The rows of `dvc exp show --md` that are experiments, by name."""
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line[:1] == "|"
    )
    return {found[1]: dict(zip(head, row, strict=True)) for row in rows if (found := re.search(r"\[(.+)\]", row[0]))}


@pytest.fixture
def cluster(tmp_path):
    """The environment of a Slurm cluster of two nodes on this machine."""
    if missing := missing_programs():
        pytest.skip(f"there is no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    with start_cluster(tmp_path / "slurm") as environment:
        yield environment


def test_the_committed_results_come_back(team):
    you = team.places["you"]
    before = (you / "data/responses.json").read_bytes()
    for name in ("metrics/train.json", "data/responses.json"):
        (you / name).unlink()
    team.follow("After Ctrl-C or a failure")
    assert (you / "data/responses.json").read_bytes() == before
    assert not git(you, "status", "--porcelain")
