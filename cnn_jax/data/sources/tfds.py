"""Prepared TFDS sets, read without TensorFlow from array_record files."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.data.host.decode import MAX_BYTES, MAX_PIXELS, ImageError
from cnn_jax.data.source import Example, Features, cached_property
from cnn_jax.data.sources.content import hash_files
from cnn_jax.data.sources.prepared import (
    SetName,
    check_labels,
    check_metadata,
    check_shards,
    find_set,
    folder_hint,
    read_object,
)
from cnn_jax.files import FileError, reading

DATA_VARIABLE = "CNN_JAX_DATA"
"""The environment variable naming a directory whose `tfds/` holds prepared sets."""

_MOST_CLASSES = 2**20
"""Fifty times the number of ImageNet's synsets."""


class TfdsSource:
    """A split of a prepared set of labelled images; pictures stay encoded.

    A set is read from its directory, after its metadata have been checked. Code of TFDS
    or of the caller is asked for it only if there is none.

    Args:
      name: A TFDS name, with a version if you like: `"cifar10"`, `"cifar10:3.0.2"`.
      split: A split or a part of one: `"train[:10%]"`.
      data_dir: The directory of the sets, a local path or `gs://...`. When None:
        `$CNN_JAX_DATA/tfds` if that variable is set, else TFDS's own default
        (`~/tensorflow_datasets`).

    Raises:
      FileNotFoundError: If the set is not there; the message says where it was looked
        for and how to get it.
      ValueError: If the split is unknown or empty, the set is not one of labelled
        images, or its files are damaged or name what is not read (`FileError`).
    """

    def __init__(
        self, name: str, split: str, data_dir: str | os.PathLike[str] | None = None
    ):
        self.name: str = name
        self.split: str = split
        self._data_dir = None if data_dir is None else os.fspath(data_dir)
        info = self._builder.info
        self._image_key, self._label_key = _supervised_keys(name, info)
        features = _labelled_image(name, info, self._image_key, self._label_key)
        self.class_names: tuple[str, ...] = tuple(features[self._label_key].names)
        shape = features[self._image_key].shape
        self._shape = (*shape[:2], shape[2] or 3)
        if len(self) == 0:
            raise ValueError(
                f"dataset {name!r}, split {split!r}: got no examples, expected at "
                "least one."
            )

    @cached_property
    def features(self) -> Features:
        """Images of the declared shape, encoded but for mocked data."""
        try:
            encoded = isinstance(self[0].image, bytes)
        except ImageError:
            encoded = True  # mocked data is never damaged
        return Features(self._shape, encoded)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the set's name and version, the split, classes and shards."""
        info = self._builder.info
        total = hashlib.sha256()
        parts = (info.full_name, self.split, self.class_names)
        total.update(repr(parts).encode())
        if info.splits:
            total.update(hash_files(info.splits[self.split].filepaths).encode())
        else:  # mocked: there is nothing but a number of examples
            total.update(str(len(self)).encode())
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        origin = f"{self.name} {self.split}[{index}]"
        if not 0 <= index < len(self):
            raise IndexError(f"{origin}: expected an index below {len(self)}.")
        try:
            record = self._records[index]
            image, label = record[self._image_key], int(record[self._label_key])
            if not isinstance(image, bytes) and np.ndim(image) != 3:
                raise TypeError("got no image in it")
        # A damaged record makes the libraries raise whatever they run into.
        except Exception as error:
            raise ImageError(origin, f"the record cannot be read: {error}") from error
        if isinstance(image, bytes) and len(image) > MAX_BYTES:
            raise ImageError(
                origin,
                f"got {len(image):,} bytes, expected no more than {MAX_BYTES:,}",
            )
        return Example(image, label, origin)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; it opens them anew.
        opened = ("_builder", "_records")
        return {key: value for key, value in vars(self).items() if key not in opened}

    @cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        name = SetName.parse(self.name)
        directory = tfds_directory(self._data_dir)
        found = find_set(name, directory)
        if found is not None:
            about = check_metadata(found)
            if not _is_array_record(about):
                _require_prepared(name, directory)
                raise ValueError(
                    f"{found}: got files of the format {about.get('fileFormat')!r}, "
                    "expected array_record."
                )
            chosen = (
                {}
                if about.get("fileFormat") == "array_record"
                else {"file_format": "array_record"}
            )
            try:
                with reading(found, "a set that TFDS prepared"):
                    builder = tfds.builder_from_directory(os.fspath(found), **chosen)
                    features = dict(builder.info.features.items())
            except ImportError as error:  # of TensorFlow, for what NumPy has not
                raise FileError(
                    f"{found}: got metadata that TFDS does not read without "
                    f"{error.name}; expected those of labelled images."
                ) from error
            check_labels(features, found)
            return builder
        # Only what TFDS itself is installed with, or the caller has registered.
        try:
            known = tfds.builder_cls(name.base)
        except tfds.core.DatasetNotFoundError as error:
            _require_prepared(name, directory)
            raise FileNotFoundError(
                f"dataset {self.name!r}: found no features.json with the set in "
                f"{directory / name.base}, expected one that TFDS 4 has prepared."
            ) from error
        for path in _info_files(name, directory):
            read_object(path)
        options = {"config": name.config, "version": name.version}
        given = {key: value for key, value in options.items() if value is not None}
        return known(data_dir=directory, **given)

    @cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        # Other images of an example are not needed, and not decoded either.
        skip = {
            key: tfds.decode.SkipDecoding()
            for key, feature in self._builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            records = self._builder.as_data_source(split=self.split, decoders=skip)
        except Exception as error:  # of many types, when nothing is there
            _require_prepared(SetName.parse(self.name), tfds_directory(self._data_dir))
            raise ValueError(
                f"split: got {self.split!r}, expected one of "
                f"{sorted(self._builder.info.splits)} of {self.name!r} or a slice of "
                f"one, such as 'train[:10%]'. ({error})"
            ) from error
        if self._builder.info.splits:
            check_shards(self._builder.info.splits[self.split], self._builder.data_path)
        try:
            records[0]
        except ModuleNotFoundError:
            # `tfds.testing.mock_data` makes up pixels, and would need TensorFlow to
            # encode them.
            return self._builder.as_data_source(split=self.split)
        except Exception:
            pass  # an empty split; a damaged record, which is reported when it is read
        return records


def _supervised_keys(name: str, info: Any) -> tuple[str, str]:
    keys = info.supervised_keys or ("image", "label")
    if not (len(keys) == 2 and all(isinstance(key, str) for key in keys)):
        raise ValueError(
            f"dataset {name!r}: got the supervised keys {keys!r}, expected those of an "
            "image and of a label."
        )
    return tuple(keys)


def _labelled_image(name: str, info: Any, image_key: str, label_key: str) -> Any:
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    image, label = features.get(image_key), features.get(label_key)
    if not (
        isinstance(image, tfds.features.Image)
        and isinstance(label, tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"dataset {name!r}: got features {sorted(features)} with the supervised "
            f"keys ({image_key!r}, {label_key!r}), expected an image and a class label."
        )
    num_classes, sides = label.num_classes, [side or 1 for side in image.shape]
    if not 1 <= (num_classes or 0) <= _MOST_CLASSES:
        raise ValueError(
            f"dataset {name!r}: got {num_classes} classes, expected 1 to "
            f"{_MOST_CLASSES:,}."
        )
    if (
        len(sides) != 3
        or sides[2] not in (1, 3)
        or min(sides) < 1
        or math.prod(sides[:2]) > MAX_PIXELS
    ):
        raise ValueError(
            f"dataset {name!r}: got images of shape {image.shape}, expected (height, "
            f"width, channels) with no more than {MAX_PIXELS:,} pixels and 1 or 3 "
            "channels."
        )
    return features


def tfds_directory(data_dir: str | None) -> Any:
    """Returns the directory of prepared sets; see `TfdsSource`."""
    from etils import epath  # paths that may begin with gs://

    if data_dir is not None:
        return epath.Path(data_dir).expanduser()
    if os.environ.get(DATA_VARIABLE):
        return epath.Path(os.environ[DATA_VARIABLE]).expanduser() / "tfds"
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return epath.Path(default).expanduser()


def _info_files(name: SetName, directory: Any) -> list[Any]:
    home = directory / name.base / (name.version or "")
    patterns = ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json")
    return [path for pattern in patterns for path in home.glob(pattern)]


def _is_array_record(about: Mapping[str, Any]) -> bool:
    others = about.get("alternativeFileFormats") or []
    return "array_record" in [
        about.get("fileFormat"),
        *(others if isinstance(others, list) else []),
    ]


def _require_prepared(name: SetName, directory: Any) -> None:
    """Raises unless a prepared set is at `directory`, and says how to prepare it."""
    base = name.base
    home = directory / base / (name.version or "")
    prepared = [read_object(path) for path in _info_files(name, directory)]
    if any(map(_is_array_record, prepared)):
        return
    problem = (
        f"found {base!r} there, but not as array_record files"
        if prepared
        else f"expected a prepared TFDS set in {home}"
    )
    present = (
        sorted(path.name for path in directory.iterdir() if path.is_dir())
        if directory.is_dir()
        else []
    )
    others = [known for known in (*present, "digits") if known != base]
    near = difflib.get_close_matches(base, others, n=3)
    raise FileNotFoundError(
        f"dataset {name.text!r}: looked in {directory}, {problem}."
        + folder_hint(name.text)
        + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
        + f" To get it, run\n  {_command(base, directory)}\nor copy a prepared "
        f"set to {directory / base}/VERSION; another place is named by data_dir or by "
        f"${DATA_VARIABLE} (its subdirectory tfds)."
    )


def _command(name: str, directory: Any) -> str:
    """Returns the command that prepares a set."""
    from cnn_jax.data.prepare import RECIPES

    if name in RECIPES:
        files = " and ".join(file.name for file in RECIPES[name].files)
        return (
            f"cnn-jax prepare {name} --from PATH --data-dir {directory}\n"
            f"where PATH holds {files},"
        )
    return (
        f"tfds build {name} --data_dir {directory} --file_format array_record\n"
        "on a machine with TensorFlow,"
    )
