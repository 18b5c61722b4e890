import hashlib
import os
import resource
from pathlib import Path

import pytest

from shoal.errors import StorageError
from shoal.storage.files import file_sha256, staged, storage_errors, sync_folder, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.json"]


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def write_and_fail() -> None:
        with staged(path) as temporary:
            temporary.write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_readers_never_see_the_temporary_file_under_the_name(tmp_path):
    path = tmp_path / "file"
    with staged(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_bytes() == b"new"


def test_a_block_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="no such file"), staged(tmp_path / "file"):
        pass


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="ulimit"):
            write_atomically(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(28, "disk is full"), (13, "SHOAL_HOME"), (30, "read-only"), (122, "quota"), (5, "Input/output error")],
)
def test_errors_of_the_system_say_what_to_do(number, advice):
    with pytest.raises(StorageError, match=advice) as caught, storage_errors(Path("/data/x")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith("/data/x: ")


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "file" / "below", b"")
    with pytest.raises(StorageError):
        sync_folder(tmp_path / "nowhere")


def test_the_digest_is_that_of_the_content(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(StorageError, match="check the path"):
        file_sha256(tmp_path / "nowhere")
