"""The metadata of a prepared TFDS set, checked before TFDS reads them.

TFDS imports whatever module a set's metadata name for a feature, opens whatever files
they name for a split, and goes on without the names of classes where these are damaged.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnn_jax.files import (
    FileError,
    check_regular,
    is_local,
    read_bytes,
    read_json,
    reading,
)

_FEATURES = "tensorflow_datasets.core.features"
FEATURE_CLASSES = frozenset(
    f"{_FEATURES}.{name}"
    for name in (
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "feature.Tensor",  # before 4.6
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
    )
)
"""The features of sets of labelled images, as their `features.json` spell them."""

_DTYPES = frozenset(
    [
        *("", "bool", "bool_", "object", "str", "string"),
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *("float16", "float32", "float64"),
    ]
)
"""For any other, TFDS imports TensorFlow."""

_INFO, _FEATURES_FILE = "dataset_info.json", "features.json"
_MOST_JSON = 2**22
_MOST_TEXT = 2**24
_NAME = re.compile(
    r"(?P<base>[a-zA-Z_]\w*)(/(?P<config>\w[\w+.-]*))?"
    r"(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True)
class SetName:
    """The parts of the name of a TFDS set.

    Attributes:
      text: The name as given.
      base: The set, in snake case.
      config: Which of the set's configurations, or None.
      version: `"3.0.2"`, or with `*` for any number; None for the newest.
    """

    text: str
    base: str
    config: str | None
    version: str | None

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Takes a name apart.

        Raises:
          ValueError: If it is no such name. TFDS reads more: community namespaces,
            which download code, and arguments for a set's own code.
        """
        from tensorflow_datasets.core import naming as tfds_naming

        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(
                f"dataset: got {text!r}, expected a TFDS name (mnist, cifar10:3.0.2, "
                "NAME/CONFIG:VERSION), digits, folder:PATH or synthetic:HxWxC."
                + folder_hint(text)
            )
        base = tfds_naming.camelcase_to_snakecase(match["base"])
        return cls(text, base, match["config"], match["version"])


def folder_hint(name: str) -> str:
    """Returns a sentence for an error if a directory has a data set's name, else ""."""
    if not os.path.isdir(os.path.expanduser(name)):
        return ""
    return f" To read the images of the directory, write {f'folder:{name}'!r}."


def find_set(name: SetName, directory: Any) -> Any:
    """Returns the directory of a prepared set, of its newest version; None without one.

    Args:
      name: Which set.
      directory: The directory of the sets, an `epath.Path`.
    """
    home = directory / name.base
    if name.config is not None:
        return _newest(home / name.config, name.version)
    found = _newest(home, name.version)
    if found is None:
        config = _default_config(name, home)
        found = _newest(home / config, name.version) if config else None
    return found


def check_metadata(directory: Any) -> Mapping[str, Any]:
    """Checks the files that say what a set is, before TFDS sees one of them.

    Returns:
      What `dataset_info.json` says.

    Raises:
      FileError: If a text or JSON file is no regular file, too long or damaged, or
        names a feature class that is not in `FEATURE_CLASSES`, or a dtype that is
        not NumPy's.
      OSError: If one is missing or cannot be read.
    """
    if is_local(directory):
        for entry in directory.iterdir():
            if entry.suffix in (".json", ".txt"):
                check_regular(entry, max_bytes=_MOST_TEXT)
    info, described = directory / _INFO, directory / _FEATURES_FILE
    about = read_object(info)
    for path, found, keys in (
        (described, read_object(described), ("type",)),  # its name before 4.4
        (info, about, ()),
    ):
        # Either spelling of a field's name is read.
        for value in _values(found, ("pythonClassName", "python_class_name", *keys)):
            if value not in FEATURE_CLASSES:
                raise FileError(
                    f"{path}: got the feature class {value!r}, which is not loaded; "
                    "expected those of labelled images: "
                    f"{', '.join(sorted(_short_names()))}."
                )
        for value in _values(found, ("dtype",)) if path == described else ():
            if value not in _DTYPES:
                raise FileError(
                    f"{path}: got the dtype {value!r}, expected one of NumPy's."
                )
    return about


def check_shards(split: Any, directory: Any) -> None:
    """Checks the files of a split that TFDS is about to read.

    Args:
      split: TFDS's information on it.
      directory: That of the set.

    Raises:
      FileError: If one is outside the directory, is no regular file, or cannot hold
        as many records as the metadata say.
      OSError: If one is missing.
    """
    for instruction in split.file_instructions:
        path = os.fspath(instruction.filename)
        if os.path.dirname(path) != os.fspath(directory):
            raise FileError(
                f"{directory / _INFO}: got the file {path!r} of a split, expected "
                "files in the same directory."
            )
        if not is_local(path):
            continue
        check_regular(path)
        size, records = os.stat(path).st_size, instruction.examples_in_shard
        if not 0 <= records <= size:
            raise FileError(
                f"{directory / _INFO}: got {records:,} records in {path!r}, expected "
                f"no more than the {size:,} bytes that it has."
            )


def check_labels(features: Mapping[str, Any], directory: Any) -> None:
    """Checks that TFDS has read the names of classes, and does not number the classes.

    Args:
      features: TFDS's, by name.
      directory: That of the set.

    Raises:
      FileError: If a file of names is no text, or has not one name for each class.
    """
    for key, feature in features.items():
        path = directory / f"{key}.labels.txt"
        if not hasattr(feature, "num_classes") or not path.exists():
            continue
        with reading(path, "the names of classes, one a line, in UTF-8"):
            text = _read(path, _MOST_TEXT).decode()
        names = [line.strip() for line in text.split("\n") if line.strip()]
        if len(names) != feature.num_classes or names != list(feature.names):
            raise FileError(
                f"{path}: got {len(names):,} names of classes, expected "
                f"{feature.num_classes:,}."
            )


def read_object(path: Any) -> Mapping[str, Any]:
    """Returns the JSON object in a file of a set's metadata.

    Raises:
      FileError, OSError: As `read_json` does.
    """
    if is_local(path):
        return read_json(path, max_bytes=_MOST_JSON)
    with reading(path, "a JSON object"):
        found = json.loads(_read(path, _MOST_JSON))
    if not isinstance(found, dict):
        raise FileError(f"{path}: got JSON of another kind, expected an object.")
    return found


def _read(path: Any, most: int) -> bytes:
    if is_local(path):
        return read_bytes(path, max_bytes=most)
    size = path.stat().length
    if size > most:
        raise FileError(f"{path}: got {size:,} bytes, expected at most {most:,}.")
    return path.read_bytes()


def _newest(parent: Any, wanted: str | None) -> Any:
    from tensorflow_datasets.core.utils.version import list_all_versions

    for version in reversed(list_all_versions(parent)):
        found = parent / str(version)
        if (wanted is None or version.match(wanted)) and (
            found / _FEATURES_FILE
        ).exists():
            return found
    return None


def _default_config(name: SetName, home: Any) -> str | None:
    import tensorflow_datasets as tfds

    path = home / ".config" / "metadata.json"
    if path.exists():
        config = read_object(path).get("default_config_name")
        if config is not None and _NAME.fullmatch(f"{name.base}/{config}") is None:
            raise FileError(
                f"{path}: got the configuration {config!r}, expected the name of a "
                "directory."
            )
        return config
    try:
        known = tfds.builder_cls(name.base)
    except tfds.core.DatasetNotFoundError:
        return None
    return known.default_builder_config.name if known.builder_configs else None


def _values(found: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """Yields the texts under some keys, at any depth."""
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in keys if isinstance(value.get(key), str))
            left += value.values()
        elif isinstance(value, list):
            left += value


def _short_names() -> set[str]:
    return {name.rpartition(".")[2] for name in FEATURE_CLASSES}
