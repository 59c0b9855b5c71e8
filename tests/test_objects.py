"""Stores in buckets: the same bits as on disk, through faults; whole or absent when written."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr
from command_line import ENTRY, refused, succeeds
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from object_server import (
    BUCKET,
    Fault,
    Proxy,
    bucket,
    bucket_environment,
    proxy,
    upload,
    web_server,
)

import crossgram as cg
from crossgram import object_client, objects
from crossgram.errors import (
    CorruptDataError,
    InputError,
    NonFiniteError,
    OutputExistsError,
    RunError,
)
from crossgram.ingestion import ingest
from crossgram.inspection import describe, validate
from crossgram.locations import ObjectPath, local, locate
from crossgram.source import open_source

ROWS, CHUNK = 20_000, 2048
CHUNK_OF_A = r"GET .*/a\.zarr/embeddings/c/3/0"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with bucket_environment():
        yield dict(os.environ)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "pair"
    cg.synth(folder, rows=ROWS, source_dim=12, target_dim=8, people=500, chunk_rows=CHUNK)
    return folder


@pytest.fixture(scope="module")
def stores(environment: dict[str, str], pair: Path) -> str:
    """Return the URL that copies of `a.zarr` and `b.zarr` are under."""
    return upload(pair, "pair")


@pytest.fixture
def faulty(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(environment["AWS_ENDPOINT_URL"]) as told:
        monkeypatch.setenv("AWS_ENDPOINT_URL", told.url)
        yield told


def keys(prefix: str) -> list[str]:
    return sorted(found["path"] for batch in obstore.list(bucket(), prefix) for found in batch)


def copied(pair: Path, name: str) -> str:
    """Return the URL of a copy of `a.zarr` to be damaged."""
    return upload(pair / "a.zarr", name)


def rows_of(store: Any) -> NDArray[Any]:
    source = open_source(store)
    rows = np.empty((source.rows, source.dim), source.dtype)
    source.read(0, rows)
    return rows


def assert_same_map(found: cg.LinearMap, expected: cg.LinearMap) -> None:
    np.testing.assert_array_equal(found.weight, expected.weight)
    np.testing.assert_array_equal(found.bias, expected.bias)


# reading


def test_a_fit_from_a_bucket_has_the_bits_of_one_from_disk(pair: Path, stores: str) -> None:
    options: dict[str, Any] = {"folds": 3, "group_by": "labels", "digits": 9}
    expected = cg.fit(pair / "a.zarr", pair / "b.zarr", **options)
    assert_same_map(cg.fit(f"{stores}/a.zarr", f"{stores}/b.zarr", **options), expected)
    assert_same_map(cg.fit(f"{stores}/a.zarr", pair / "b.zarr", join="ids", **options), expected)


def test_what_inspect_says_of_a_store_is_the_same_but_for_its_place(
    pair: Path, stores: str
) -> None:
    found = describe(f"{stores}/a.zarr")
    assert found.pop("path") == f"{stores}/a.zarr"
    expected = describe(pair / "a.zarr")
    del expected["path"]
    assert found == expected
    validate(f"{stores}/a.zarr")


@pytest.mark.parametrize("layout", [{}, {"shard_rows": 4 * CHUNK}, {"codec": "zstd"}])
def test_any_rows_of_any_layout_are_read(
    layout: dict[str, Any], stores: str, pair: Path, tmp_path: Path
) -> None:
    ingest(pair / "a.zarr", tmp_path / "x.zarr", chunk_rows=CHUNK, **layout)
    source = open_source(upload(tmp_path / "x.zarr", "layout"))
    expected = rows_of(pair / "a.zarr")
    for start, stop in [(0, ROWS), (0, 1), (CHUNK - 1, 3 * CHUNK + 1), (ROWS - 1, ROWS), (7, 7)]:
        rows = np.empty((stop - start, 12), "float32")
        source.read(start, rows)
        np.testing.assert_array_equal(rows, expected[start:stop])
    assert source.ids is not None
    assert source.ids.read(ROWS - 1, ROWS)[0] == f"img-{ROWS - 1:09d}"


@pytest.mark.parametrize("version", [2, 3])
def test_plain_arrays_are_read(version: int, stores: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 5))
    array = zarr.create_array(
        tmp_path / "x", shape=rows.shape, chunks=(30, 5), dtype="f8", zarr_format=version
    )
    array[:] = rows
    np.testing.assert_array_equal(rows_of(upload(tmp_path / "x", f"plain-{version}")), rows)


def test_several_threads_read_one_source(pair: Path, stores: str) -> None:
    source, expected = open_source(f"{stores}/a.zarr"), rows_of(pair / "a.zarr")

    def read(start: int) -> NDArray[Any]:
        rows = np.empty((500, 12), "float32")
        source.read(start, rows)
        return rows

    starts = range(0, ROWS - 500, 900)
    with ThreadPoolExecutor(8) as threads:
        for start, rows in zip(starts, threads.map(read, starts), strict=True):
            np.testing.assert_array_equal(rows, expected[start : start + 500])


def test_commands_in_other_processes_open_what_a_label_names(
    pair: Path, stores: str, tmp_path: Path
) -> None:
    x, y = (open_source(f"{stores}/{name}.zarr").label for name in "ab")
    succeeds("fit", x, y, "-o", "m.safetensors", cwd=tmp_path)
    expected = cg.fit(pair / "a.zarr", pair / "b.zarr")
    assert_same_map(cg.LinearMap.load(tmp_path / "m.safetensors"), expected)
    assert succeeds("inspect", x, cwd=tmp_path)["rows"] == ROWS
    assert succeeds("plan", x, y, cwd=tmp_path)["memory"]["fetching"] > 0
    compared = succeeds("compare", x, y, cwd=tmp_path)
    assert compared["pairs"][0].keys() >= {"r2"}


def test_a_store_goes_to_another_process_without_credentials(
    environment: dict[str, str], stores: str
) -> None:
    sent = pickle.dumps(cg.EmbeddingStore.open(f"{stores}/a.zarr"))
    assert environment["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    assert environment["AWS_ACCESS_KEY_ID"].encode() not in sent
    np.testing.assert_array_equal(rows_of(pickle.loads(sent)), rows_of(f"{stores}/a.zarr"))


def test_each_chunk_is_fetched_once(faulty: Proxy, stores: str) -> None:
    cg.fit(f"{stores}/a.zarr", f"{stores}/b.zarr", digits=0)
    chunks = -(-ROWS // CHUNK)
    assert faulty.count(r"GET .*/embeddings/c/") == 2 * chunks
    # ids that are stored alike are not decoded, nor fetched again to be; those of a are remembered
    assert faulty.count(r"GET .*/ids/c/") == 3 * -(-ROWS // 4096)
    assert faulty.count("^HEAD") == 0


# a web server


def test_a_web_server_is_read_from_only(pair: Path, stores: str, tmp_path: Path) -> None:
    shutil.copytree(pair / "a.zarr", tmp_path / "damaged.zarr")
    (tmp_path / "damaged.zarr/embeddings/c/1/0").unlink()
    expected = cg.fit(pair / "a.zarr", pair / "b.zarr")
    with web_server(pair) as url:
        assert_same_map(cg.fit(f"{url}/a.zarr", f"{url}/b.zarr/"), expected)
        assert describe(f"{url}/a.zarr")["stored_bytes"] is None
        with pytest.raises(InputError, match=f"{url}/nope: no Zarr store is there"):
            open_source(f"{url}/nope")
        with (
            pytest.raises(InputError, match="only read from; write to a path or to s3://"),
            cg.EmbeddingStore.create(f"{url}/new.zarr", 3),
        ):
            pass
    with web_server(tmp_path) as url:
        missing = rf"{url}/damaged.zarr: chunk c/1/0 \(rows {CHUNK} to {2 * CHUNK - 1}\) is missing"
        with pytest.raises(CorruptDataError, match=missing):
            rows_of(f"{url}/damaged.zarr")


# faults


@pytest.mark.parametrize("kind", ["busy", "cut", "closed", "silent"])
def test_a_fit_survives_what_fails_for_a_moment(
    kind: str, faulty: Proxy, pair: Path, stores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "_SILENT_TIME", timedelta(milliseconds=500))
    faulty.faults = [Fault(kind, CHUNK_OF_A, 2), Fault(kind, r"GET .*b\.zarr/embeddings/zarr.json")]
    found = cg.fit(f"{stores}/a.zarr", f"{stores}/b.zarr")
    assert faulty.done
    assert_same_map(found, cg.fit(pair / "a.zarr", pair / "b.zarr"))


@pytest.mark.parametrize(
    ("kind", "said"), [("busy", "503 .*SlowDown"), ("cut", ""), ("closed", "")]
)
def test_a_run_stops_with_the_name_of_what_stays_away(
    kind: str, said: str, faulty: Proxy, stores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    faulty.faults = [Fault(kind, CHUNK_OF_A, 1000)]
    with pytest.raises(RunError, match=rf"{stores}/a\.zarr/embeddings/c/3/0: .*{said}"):
        cg.fit(f"{stores}/a.zarr", f"{stores}/b.zarr")
    assert faulty.count(CHUNK_OF_A) >= 3


def test_a_command_exits_1_when_the_service_is_gone(stores: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        message = refused("inspect", f"{stores}/a.zarr", cwd=tmp_path, status=1)
    assert f"{stores}/a.zarr/zarr.json: cannot be read" in message


def test_a_command_is_interrupted_at_once_while_the_service_is_silent(
    faulty: Proxy, stores: str, tmp_path: Path
) -> None:
    faulty.faults = [Fault("silent", CHUNK_OF_A, 1000)]
    process = subprocess.Popen(
        [*ENTRY, "inspect", f"{stores}/a.zarr", "--validate"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not faulty.count(CHUNK_OF_A):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert (process.returncode, said.split()[:1]) == (130, ["Interrupted:"])


@pytest.mark.parametrize("kind", ["short", "flipped"])
def test_a_chunk_that_arrives_changed_is_named(kind: str, faulty: Proxy, stores: str) -> None:
    faulty.faults = [Fault(kind, CHUNK_OF_A, 1000)]
    named = rf"{stores}/a\.zarr: chunk c/3/0 \(rows 6144 to 8191\) cannot be decoded"
    with pytest.raises(CorruptDataError, match=named):
        cg.fit(f"{stores}/a.zarr", f"{stores}/b.zarr")


@pytest.mark.parametrize("part", ["embeddings", "ids", "labels"])
def test_a_missing_chunk_is_never_read_as_zeros(part: str, pair: Path, stores: str) -> None:
    url = copied(pair, f"missing-{part}")
    chunk = "c/1/0" if part == "embeddings" else "c/1"
    obstore.delete(bucket(), f"missing-{part}/{part}/{chunk}")
    with pytest.raises(CorruptDataError, match=rf"chunk {chunk} .* is missing"):
        validate(url)


def test_an_object_that_was_cut_short_when_it_was_stored_is_named(pair: Path, stores: str) -> None:
    url = copied(pair, "cut")
    whole = (pair / "a.zarr/embeddings/c/2/0").read_bytes()
    obstore.put(bucket(), "cut/embeddings/c/2/0", whole[:-100])
    with pytest.raises(CorruptDataError, match=r"chunk c/2/0 \(rows 4096 to 6143\)"):
        rows_of(url)


# what cannot be opened


def test_wrong_credentials_are_refused(stores: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        message = refused("inspect", f"{stores}/a.zarr", cwd=tmp_path)
        assert f"{stores}/a.zarr/zarr.json" in message
        assert "403 Forbidden, SignatureDoesNotMatch" in message
        assert "check the credentials" in message
        patch.setenv("AWS_SKIP_SIGNATURE", "true")
        with pytest.raises(InputError, match="access is denied"):
            open_source(f"{stores}/a.zarr")
        patch.delenv("AWS_SKIP_SIGNATURE")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(InputError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
            open_source(f"{stores}/a.zarr")


def test_the_profile_of_a_file_of_credentials_is_used(
    environment: dict[str, str], stores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    key, secret = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    file.write_text(f"[work]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert open_source(f"{stores}/a.zarr").rows == ROWS
    monkeypatch.setenv("AWS_PROFILE", "home")
    with pytest.raises(InputError, match="profile .home. could not be found"):
        open_source(f"{stores}/a.zarr")


def test_a_bucket_that_may_not_be_listed_is_read(faulty: Proxy, stores: str) -> None:
    faulty.faults = [Fault("denied", r"GET .*/(\.z|(masked|nope)/|\?)", 1000)]
    assert cg.EmbeddingStore.open(f"{stores}/a.zarr").masked is None
    assert rows_of(f"{stores}/a.zarr").shape == (ROWS, 12)
    with pytest.raises(InputError, match="access is denied .* what is not there is denied, too"):
        open_source(f"{stores}/nope")
    faulty.faults = [Fault("denied", r"GET .*/labels/", 1000)]
    with pytest.raises(CorruptDataError, match="its array 'labels' is missing"):
        open_source(f"{stores}/a.zarr")


def test_what_is_not_there_is_said(stores: str, tmp_path: Path) -> None:
    assert "there is no bucket 'nobody'" in refused("inspect", "s3://nobody/a.zarr", cwd=tmp_path)
    with pytest.raises(
        InputError, match=r"nope: no Zarr store is there .* the first object is not there either"
    ):
        open_source(f"{stores}/nope")
    with pytest.raises(InputError, match=r"the first object is a\.zarr/embeddings/"):
        open_source(stores)


def test_a_bucket_of_another_region_is_the_caller_s_to_mend(faulty: Proxy, stores: str) -> None:
    faulty.faults = [Fault("moved", "GET", 1000)]
    with pytest.raises(InputError, match="check the URL, and the endpoint, region"):
        open_source(f"{stores}/a.zarr")


def test_an_object_too_large_to_be_a_chunk_is_not_fetched(
    stores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(f"{stores}/a.zarr")
    monkeypatch.setattr(objects, "_MOST_BYTES", 10_000)
    with pytest.raises(CorruptDataError, match=r"c/0/0: has \d\d,\d+ bytes, at most 10,000"):
        source.read(0, np.empty((CHUNK, 12), "float32"))


def test_a_store_of_nobody_s_is_refused(stores: str) -> None:
    for url, said in {
        "ftp://host/a.zarr": "are not known",
        "s3://": "names no bucket",
        "s3://key:secret@bucket/a.zarr": "credentials in the environment",
        "s3://bucket/../a.zarr": "in it, which",
        "https://host/a.zarr?signature=1": "query or fragment",
        "file://elsewhere/a.zarr": "another machine",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            open_source(url)
        assert "secret" not in str(caught.value)


def test_without_obstore_the_command_to_install_it_is_said(tmp_path: Path) -> None:
    code = "import sys; sys.modules['obstore'] = None\nfrom crossgram.source import open_source\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}open_source('s3://bucket/a.zarr')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'crossgram[objects]'" in done.stderr


def test_maps_and_moments_stay_on_this_machine(pair: Path, stores: str, tmp_path: Path) -> None:
    message = refused(
        "fit", f"{stores}/a.zarr", f"{stores}/b.zarr", "-o", f"{stores}/m", cwd=tmp_path
    )
    assert f"{stores}/m: only stores are read and written there" in message
    with pytest.raises(InputError, match="only stores are read and written there"):
        cg.LinearMap.load(f"{stores}/m.safetensors")


# writing


def test_what_apply_and_ingest_write_is_read_back(pair: Path, stores: str, tmp_path: Path) -> None:
    mapping = cg.fit(pair / "a.zarr", pair / "b.zarr")
    mapping.save(tmp_path / "m.safetensors")
    # by a process of its own too: the last bits of a product depend on BLAS threads
    succeeds("apply", "m.safetensors", pair / "a.zarr", "out.zarr", cwd=tmp_path)
    expected = cg.EmbeddingStore.open(tmp_path / "out.zarr")
    out = f"s3://{BUCKET}/written/out.zarr"
    assert succeeds("apply", "m.safetensors", f"{stores}/a.zarr", out, cwd=tmp_path)["store"] == out
    written = cg.EmbeddingStore.open(out)
    written.validate()
    np.testing.assert_array_equal(rows_of(written), rows_of(expected))
    assert written.ids is not None
    assert written.labels is not None
    assert expected.ids is not None
    assert written.ids.stored_alike(expected.ids, 0, ROWS)
    assert written.provenance["mapped_from"] == f"{stores}/a.zarr"
    again = ingest(out, f"s3://{BUCKET}/written/again.zarr", shard_rows=65_536)
    again.validate()
    np.testing.assert_array_equal(rows_of(again), rows_of(expected))


def test_nothing_is_a_store_before_all_of_it_is_there(stores: str) -> None:
    url = f"s3://{BUCKET}/new.zarr"
    with cg.EmbeddingStore.create(url, 3) as writer:
        writer.append(np.ones((100_000, 3)), labels=np.zeros(100_000, int))
        assert keys("new.zarr")
        assert "new.zarr/zarr.json" not in keys("new.zarr")
        with pytest.raises(InputError, match="no Zarr store is there"):
            cg.EmbeddingStore.open(url)
    assert cg.EmbeddingStore.open(url).rows == 100_000


@pytest.mark.parametrize("error", [NonFiniteError, KeyboardInterrupt])
def test_a_run_that_fails_leaves_nothing(error: type[BaseException], stores: str) -> None:
    with (
        suppress(error),
        cg.EmbeddingStore.create(f"s3://{BUCKET}/failed.zarr", 3) as writer,
    ):
        writer.append(np.ones((100_000, 3)), ids=np.arange(100_000))
        assert keys("failed.zarr")
        raise error
    assert keys("failed.zarr") == []


def test_a_service_that_takes_no_more_leaves_nothing(
    faulty: Proxy, pair: Path, stores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    out = f"s3://{BUCKET}/refused.zarr"
    faulty.faults = [Fault("busy", r"PUT .*/refused\.zarr/embeddings/c/0/0", 1000)]
    mapping = cg.fit(pair / "a.zarr", pair / "b.zarr")
    with pytest.raises(RunError, match=rf"{out}/embeddings/c/0/0: cannot be written: 503"):
        cg.apply(mapping, pair / "a.zarr", out)
    assert keys("refused.zarr") == []
    faulty.faults = [Fault("busy", r"PUT .*/refused\.zarr/zarr\.json", 1000)]
    with pytest.raises(RunError, match=rf"{out}/zarr\.json: cannot be written"):
        cg.apply(mapping, pair / "a.zarr", out)
    assert keys("refused.zarr") == []
    faulty.faults += [Fault("busy", r"(DELETE|POST) ", 1000)]
    with pytest.raises(RunError, match="cannot be written: 503 .* could not be removed .*; remove"):
        cg.apply(mapping, pair / "a.zarr", out)
    assert "refused.zarr/zarr.json" not in keys("refused.zarr")


def test_a_service_that_lists_nothing_is_named(
    faulty: Proxy, pair: Path, stores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    faulty.faults = [Fault("busy", r"GET /faces\?", 1000)]
    for call in (lambda url: ingest(pair / "a.zarr", url), open_source):
        with pytest.raises(RunError, match=rf"s3://{BUCKET}/unlisted: cannot be listed: 503"):
            call(f"s3://{BUCKET}/unlisted")


def test_what_a_killed_run_left_is_no_store_and_can_be_overwritten(pair: Path, stores: str) -> None:
    url = f"s3://{BUCKET}/killed.zarr"
    obstore.put(bucket(), "killed.zarr/embeddings/c/9/0", b"half")
    with pytest.raises(OutputExistsError):
        ingest(pair / "a.zarr", url)
    ingest(pair / "a.zarr", url, overwrite=True).validate()
    assert "killed.zarr/embeddings/c/9/0" not in keys("killed.zarr")


def test_a_store_is_overwritten_only_when_asked(pair: Path, stores: str) -> None:
    url = f"s3://{BUCKET}/twice.zarr"
    ingest(pair / "a.zarr", url, chunk_rows=1024)
    with pytest.raises(OutputExistsError, match="already exists"):
        ingest(pair / "b.zarr", url)
    ingest(pair / "b.zarr", url, overwrite=True)
    np.testing.assert_array_equal(rows_of(url), rows_of(pair / "b.zarr"))
    assert sum("embeddings/c/" in key for key in keys("twice.zarr")) == 2
    with pytest.raises(InputError, match="would be replaced"):
        ingest(url, url, overwrite=True)
    with pytest.raises(InputError, match="lies inside"):
        ingest(url, f"{url}/inner.zarr")


def test_what_crossgram_did_not_make_is_not_overwritten(pair: Path, stores: str) -> None:
    obstore.put(bucket(), "theirs/notes.txt", b"precious")
    obstore.put(bucket(), "array/zarr.json", b'{"node_type": "array"}')
    obstore.put(bucket(), "folder/embeddings/part-0.npy", b"precious")
    for key in ("theirs", "array", "folder"):
        with pytest.raises(InputError, match="crossgram did not make"):
            ingest(pair / "a.zarr", f"s3://{BUCKET}/{key}", overwrite=True)
        assert len(keys(key)) == 1
    with pytest.raises(InputError, match="names a whole bucket"):
        ingest(pair / "a.zarr", f"s3://{BUCKET}", overwrite=True)


# addresses

PARTS = st.text(st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from("-_. "))
KEYS = st.lists(PARTS.filter(lambda part: part.strip(". ")), min_size=1, max_size=4)


@given(st.sampled_from(["s3", "gs", "az", "https"]), KEYS)
def test_an_address_is_what_was_given_and_lies_in_its_parents(
    scheme: str, parts: list[str]
) -> None:
    location: Any = locate(f"{scheme}://place")
    for part in parts:
        assert (location / part).parents[0] == location
        location = location / part
    assert isinstance(location, ObjectPath)
    assert str(location) == f"{scheme}://place/{'/'.join(parts)}"
    assert locate(f"{location}/") == locate(str(location)) == location
    assert location.name == parts[-1]
    assert len(location.parents) == len(parts)
    with pytest.raises(InputError):
        location / ".."


def test_files_have_urls_too(pair: Path, tmp_path: Path) -> None:
    shutil.copytree(pair / "a.zarr", tmp_path / "a b.zarr")
    url = (tmp_path / "a b.zarr").as_uri()
    assert locate(url) == local(url) == tmp_path / "a b.zarr"
    np.testing.assert_array_equal(rows_of(url), rows_of(pair / "a.zarr"))
    copy = ingest(url, (tmp_path / "c.zarr").as_uri())
    assert copy.path == tmp_path / "c.zarr"
