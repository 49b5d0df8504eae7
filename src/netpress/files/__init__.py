"""Files: read with care, written whole or not at all, fetched, unpacked; TOML."""

from netpress.files.caching import cache_folder, private_folder, require_private
from netpress.files.fetching import download, sha256_of, unpack_tar
from netpress.files.reading import (
    is_folder,
    is_there,
    parse_json,
    read_file,
    read_object,
    read_text,
    refuse_other_tools,
    require_file,
)
from netpress.files.toml import dump_toml, parse_toml, parse_toml_value
from netpress.files.writing import atomic_path, atomic_write

__all__ = [
    "atomic_path",
    "atomic_write",
    "cache_folder",
    "download",
    "dump_toml",
    "is_folder",
    "is_there",
    "parse_json",
    "parse_toml",
    "parse_toml_value",
    "private_folder",
    "read_file",
    "read_object",
    "read_text",
    "refuse_other_tools",
    "require_file",
    "require_private",
    "sha256_of",
    "unpack_tar",
]
