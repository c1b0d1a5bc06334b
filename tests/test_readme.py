"""The README leads with the two commands, and its tree is the source."""

from tests.blocks import ROOT, blocks

README = ROOT / "README.md"
NOT_SOURCE = ("__pycache__", ".egg-info")


def tree() -> list[str]:
    """Paths of the README's tree under src/, folders with a slash at the end; indentation is depth."""
    (block,) = (block for block in blocks(README) if block.language == "text" and block.text.startswith("src/"))
    paths: list[str] = []
    open_folders: list[tuple[int, str]] = []
    for line in block.text.splitlines():
        depth = len(line) - len(line.lstrip())
        entry, _, comment = line.strip().partition(" ")
        assert comment.strip() or entry.endswith("/"), f"no comment: {line!r}"
        open_folders = [(at, folder) for at, folder in open_folders if at < depth]
        path = "".join(folder for _, folder in open_folders) + entry
        paths.append(path)
        if entry.endswith("/"):
            open_folders.append((depth, entry))
    return paths


def test_the_first_block_is_the_two_commands() -> None:
    assert blocks(README)[0].text == "make demo\nmake test\n"


def test_the_tree_names_every_source_file_once() -> None:
    named = tree()
    assert len(named) == len(set(named))
    leaves = [path for path in named if path.endswith("/") and not any(p != path and p.startswith(path) for p in named)]
    files = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and not any(mark in str(path) for mark in NOT_SOURCE)
    ]
    # An empty __init__.py says nothing; a folder without rows of its own is generated, and stands for what it holds.
    wanted = {
        path for path in files if (ROOT / path).stat().st_size and not any(path.startswith(folder) for folder in leaves)
    }
    assert {path for path in named if not path.endswith("/")} == wanted
    assert all(any(path.startswith(folder) for path in files) for folder in leaves)
