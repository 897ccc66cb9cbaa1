"""Prepared TFDS sets, read without TensorFlow from array_record files."""

from __future__ import annotations

import difflib
import hashlib
import os
from typing import Any

from cnn_jax.data.host.decode import ImageError
from cnn_jax.data.source import Example, Features, cached_property
from cnn_jax.data.sources.content import hash_files

DATA_VARIABLE = "CNN_JAX_DATA"
"""The environment variable naming a directory whose `tfds/` holds prepared sets."""


class TfdsSource:
    """A split of a prepared set of labelled images; pictures stay encoded.

    Args:
      name: A TFDS name, with a version if you like: `"cifar10"`, `"cifar10:3.0.2"`.
      split: A split or a part of one: `"train[:10%]"`.
      data_dir: The directory of the sets, a local path or `gs://...`. When None:
        `$CNN_JAX_DATA/tfds` if that variable is set, else TFDS's own default
        (`~/tensorflow_datasets`).

    Raises:
      FileNotFoundError: If the set is not there; the message says where it was looked
        for and how to get it.
      ValueError: If the split is unknown or empty, or the set is not one of labelled
        images.
    """

    def __init__(
        self, name: str, split: str, data_dir: str | os.PathLike[str] | None = None
    ):
        self.name: str = name
        self.split: str = split
        self._data_dir = None if data_dir is None else os.fspath(data_dir)
        info = self._builder.info
        keys: tuple[str, str] = info.supervised_keys or ("image", "label")
        self._image_key, self._label_key = keys
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
        except RuntimeError as error:  # what array_record calls damage
            raise ImageError(origin, f"the record cannot be read: {error}") from error
        return Example(record[self._image_key], int(record[self._label_key]), origin)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; it opens them anew.
        opened = ("_builder", "_records")
        return {key: value for key, value in vars(self).items() if key not in opened}

    @cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        directory = tfds_directory(self._data_dir)
        try:
            return tfds.builder(self.name, data_dir=directory)
        except tfds.core.DatasetNotFoundError:
            _require_prepared(self.name, directory)
            raise

    @cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        skip = {self._image_key: tfds.decode.SkipDecoding()}
        try:
            records = self._builder.as_data_source(split=self.split, decoders=skip)
        except Exception as error:  # of many types, when nothing is there
            _require_prepared(self.name, tfds_directory(self._data_dir))
            raise ValueError(
                f"split: got {self.split!r}, expected one of "
                f"{sorted(self._builder.info.splits)} of {self.name!r} or a slice of "
                f"one, such as 'train[:10%]'. ({error})"
            ) from error
        try:
            records[0]
        except (IndexError, RuntimeError):
            pass  # an empty split; a damaged record, which is reported when it is read
        except ModuleNotFoundError:
            # `tfds.testing.mock_data` makes up pixels, and would need TensorFlow to
            # encode them.
            return self._builder.as_data_source(split=self.split)
        return records


def _labelled_image(name: str, info: Any, image_key: str, label_key: str) -> Any:
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    if not (
        isinstance(features.get(image_key), tfds.features.Image)
        and isinstance(features.get(label_key), tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"dataset {name!r}: got features {sorted(features)} with the supervised "
            f"keys ({image_key!r}, {label_key!r}), expected an image and a class label."
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


def _require_prepared(name: str, directory: Any) -> None:
    """Raises unless a prepared set is at `directory`, and says how to prepare it."""
    base, _, version = name.partition(":")
    home = directory / base / version
    patterns = ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json")
    prepared = [path for pattern in patterns for path in home.glob(pattern)]
    if prepared and any(
        '"array_record"' in path.read_text(encoding="utf-8") for path in prepared
    ):
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
        f"dataset {name!r}: looked in {directory}, {problem}."
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
