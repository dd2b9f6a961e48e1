from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree

from instruct.results.lock import in_folders, md5_of_folder, stale_lines

FILES = {"base.json": "1" * 32, "base-chat.json": "2" * 32, "base-few-shot.json": "3" * 32, "éñ.json": "4" * 32}


def lock_of(digest):
    outs = [{"path": "data/baselines", "md5": digest, "nfiles": 4}, {"path": "data/responses.json", "md5": "5" * 32}]
    return {"stages": {"baseline": {"outs": outs}}}


def test_the_md5_of_a_folder_is_dvcs_own():
    tree = Tree()
    for name, digest in FILES.items():
        tree.add((name,), None, HashInfo("md5", digest))
    tree.digest()
    assert md5_of_folder(FILES) == tree.hash_info.value


def test_answers_within_a_folder_of_the_lock_are_tied_to_it():
    files = {f"data/baselines/{name}": digest for name, digest in FILES.items()}
    lock = lock_of(md5_of_folder(FILES))

    def stale(**others):
        return stale_lines({}, {path: {digest} for path, digest in {**files, **others}.items()}, lock)

    assert in_folders(files, lock) == {"data/baselines": FILES}
    assert stale(**{"data/responses.json": "5" * 32}) == []
    (line,) = stale(**{"data/baselines/base.json": "9" * 32})
    assert line.startswith("data/baselines ")
    (line,) = stale(**{"data/responses.json": "9" * 32})
    assert line.startswith("data/responses.json ")
    del files["data/baselines/base.json"]  # of some of its files nothing can be said
    assert stale() == []
