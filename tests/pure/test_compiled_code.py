"""The folder of compiled code: this user's alone, or not used; other versions' code is removed."""

import os
from pathlib import Path

import pytest

from sd3tune.train import compiled_code


def test_the_folder_is_below_the_user_s_cache_and_closed_to_others(tmp_path: Path) -> None:
    folder = compiled_code.opened(compiled_code.root({"XDG_CACHE_HOME": str(tmp_path)}))
    assert folder is not None and folder.parent == tmp_path / "sd3tune" / "compiled"
    assert folder.stat().st_mode & 0o077 == 0 and folder.parent.stat().st_mode & 0o077 == 0
    assert (folder.parent / "CACHEDIR.TAG").exists()
    assert compiled_code.opened(folder.parent) == folder  # the second time too


@pytest.mark.parametrize("spoil", ["open to the group", "a link", "a file", "not writable"])
def test_a_folder_that_others_could_fill_is_not_used(spoil: str, tmp_path: Path) -> None:
    folder = compiled_code.opened(tmp_path)
    assert folder is not None
    if spoil == "open to the group":
        folder.chmod(0o770)
    elif spoil == "not writable":
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
    else:
        folder.rmdir()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        folder.symlink_to(elsewhere) if spoil == "a link" else folder.write_text("x")
    assert compiled_code.opened(tmp_path) is None


def test_a_folder_that_the_user_named_is_kept_and_torch_s_own_is_not(tmp_path: Path) -> None:
    environ = {compiled_code.VARIABLE: "/theirs"}
    assert compiled_code.prepare(environ, tmp_path, "/tmp/of_torch") == Path("/theirs")
    for unset in ({}, {compiled_code.VARIABLE: ""}, {compiled_code.VARIABLE: "/tmp/of_torch"}):
        environ = dict(unset)
        assert compiled_code.prepare(environ, tmp_path, "/tmp/of_torch") == tmp_path
        assert environ == {compiled_code.VARIABLE: str(tmp_path)}


def test_code_of_other_versions_is_counted_and_removed(tmp_path: Path) -> None:
    ours = compiled_code.opened(tmp_path)
    assert ours is not None
    old = tmp_path / "torch-2.1-python39"
    for folder in (ours, old):
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "kernel.so").write_bytes(bytes(1000))
    assert compiled_code.held(tmp_path) == {ours.name: 1000, old.name: 1000}
    assert compiled_code.prune(tmp_path, dry_run=True) == {old.name: 1000} and old.exists()
    assert compiled_code.prune(tmp_path, dry_run=False) == {old.name: 1000}
    assert not old.exists() and (ours / "kernel.so").exists()
