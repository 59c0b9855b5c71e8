"""What the metadata of Parquet files say of a column, read in a process of its own.

pyarrow ends the process where a statistic of a damaged file contradicts the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossgram.apart import Bounds, answer

__all__ = ["MOST_BYTES", "described"]

MOST_BYTES = 64 << 20
"""Of the description of a file."""

_MEMORY = 512 << 20
_SECONDS = 30


def described(files: Sequence[Path], name: str, *, is_list: bool) -> Iterator[bytes]:
    """Yield, as JSON, of each file what it says of each row group's part of a column.

    Parameters
    ----------
    files : sequence of Path
        Parquet files.
    name : str
        Of the column.
    is_list : bool
        Whether its values are lists, or single ones.
    """
    import pyarrow.parquet

    bounds = Bounds()
    for file in files:
        bounds.allow(_MEMORY, _SECONDS)
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
            yield json.dumps(list(_parts(opened, name, is_list=is_list))).encode()


def _parts(opened: Any, name: str, *, is_list: bool) -> Iterator[dict[str, Any]]:
    metadata = opened.metadata
    for k in range(metadata.num_columns):
        leaf = opened.schema.column(k)
        is_own = leaf.path.startswith(f"{name}.") if is_list else leaf.path == name
        if not is_own or (leaf.max_repetition_level > 0) is not is_list:
            continue
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            part = group.column(k)
            yield {
                "name": part.path_in_schema,
                "rows": group.num_rows,
                "values": part.num_values,
                "stored": part.total_compressed_size,
                "data_at": part.data_page_offset,
                "dictionary_at": part.dictionary_page_offset if part.has_dictionary_page else 0,
            }


if __name__ == "__main__":
    kind, column, *names = sys.argv[1:]
    answer(described(list(map(Path, names)), column, is_list=kind == "lists"))
