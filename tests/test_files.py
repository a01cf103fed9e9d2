"""Hashes of files are remembered only as long as the files have not changed."""

import hashlib
import os

import pytest

from helper import files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED_SIZE", 10)
    return tmp_path / "cache"


def write(path, content, time):
    path.write_bytes(content)
    os.utime(path, (time, time))
    return path


def test_hash_of_a_large_file_is_read_once(tmp_path, cache, monkeypatch):
    file = write(tmp_path / "weights", b"0123456789", 1000)
    expected = hashlib.sha256(b"0123456789").hexdigest()
    assert files.sha256(file) == expected
    # With the same size and time the file is not read again
    write(file, b"abcdefghij", 1000)
    assert files.sha256(file) == expected
    for content, time in ((b"abcdefghij", 1001), (b"abcdefghijk", 1000)):
        write(file, content, time)
        assert files.sha256(file) == hashlib.sha256(content).hexdigest()
    both = files.sha256(file, write(tmp_path / "other", b"xyz", 1000))
    assert both == hashlib.sha256(b"abcdefghijkxyz").hexdigest()


def test_small_and_new_files_are_read_every_time(tmp_path, cache):
    small = write(tmp_path / "small", b"012", 1000)
    new = tmp_path / "new"
    for content in (b"0123456789", b"abcdefghij"):
        new.write_bytes(content)
        assert files.sha256(new) == hashlib.sha256(content).hexdigest()
    files.sha256(small)
    assert not cache.exists()


@pytest.mark.parametrize("content", ["[1]", "no JSON", '{"a": 1}'])
def test_damaged_memory_is_ignored(tmp_path, cache, content):
    (cache / "dm-kd").mkdir(parents=True)
    (cache / "dm-kd/sha256.json").write_text(content)
    file = write(tmp_path / "weights", b"0123456789", 1000)
    assert files.sha256(file) == hashlib.sha256(b"0123456789").hexdigest()


def test_unwritable_cache_does_not_matter(tmp_path, monkeypatch, cache):
    cache.write_text("a file")
    file = write(tmp_path / "weights", b"0123456789", 1000)
    assert files.sha256(file) == hashlib.sha256(b"0123456789").hexdigest()
