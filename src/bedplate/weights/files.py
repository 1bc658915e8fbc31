"""Reading and writing weight files: safetensors, whole or in shards. Pickles are refused unless the user asks."""

from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bedplate.errors import UserError
from bedplate.files import read_json_object, write_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not yet read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def list_tensors(folder: Path) -> dict[str, Entry]:
    """Name, place, shape and type of each tensor in a folder, from the headers alone."""
    whole, index = folder / WHOLE, folder / INDEX
    if whole.exists():
        return _header(whole)
    if not index.exists():
        raise _no_weights(folder)
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{index} holds no weight_map from tensors to shards", fix="copy the model folder again")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not (folder / shard).exists():
            raise UserError(
                f"{index} names the shard {shard!r}, which is missing", fix="copy all shards into the folder"
            )
        entries |= _header(folder / shard)
    if absent := sorted(set(weight_map) - set(entries)):
        raise UserError(f"{index} lists {absent[0]!r}, but no shard holds it", fix="copy the model folder again")
    return entries


def tensor_names(folder: Path) -> list[str]:
    """The names alone; none where there is no safetensors file."""
    return list(list_tensors(folder)) if any((folder / name).exists() for name in (WHOLE, INDEX)) else []


class TensorsOnDemand(MutableMapping[str, Tensor]):
    """Tensors of files under their full names, each read (and converted to `dtype`) when it is taken out.

    A file is opened anew for every tensor: an open one keeps all pages that were read in memory.
    """

    def __init__(self, entries: dict[str, tuple[str, Entry]], *, dtype: torch.dtype) -> None:
        self._entries = dict(entries)
        self._dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        own_name, entry = self._entries[name]
        with safe_open(entry.file, framework="pt") as opened:
            return opened.get_tensor(own_name).to(self._dtype, copy=True)

    def __setitem__(self, name: str, value: Tensor) -> None:
        raise TypeError("files are only read")

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_pickle(folder: Path, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of `pytorch_model.bin`, read without running any code that it may hold."""
    path = folder / PICKLES[0]
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes are instructions to the unpickler and raise whatever they like
        raise _bad_pickle(path) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise _bad_pickle(path)
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def write_tensors(tensors: dict[str, Tensor], folder: Path, *, shard_bytes: int = 5 * 10**9) -> None:
    """Write `model.safetensors`, or numbered shards and their index when there is more than `shard_bytes`."""
    shards = _fill_shards(tensors, shard_bytes)
    metadata = {"format": "pt"}
    if len(shards) == 1:
        save_file(shards[0], folder / WHOLE, metadata=metadata)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata=metadata)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(_bytes([tensor]) for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _header(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}
            return {name: Entry(path, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is truncated or not a safetensors file ({error})", fix="copy the file again"
        ) from error


def _bad_pickle(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged, or holds more than tensors", fix="convert it to safetensors where it was made"
    )


def _no_weights(folder: Path) -> UserError:
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if pickles:
        readable = pickles[0] == PICKLES[0]
        fix = (
            "convert it to safetensors"
            + ", or open it by bedplate.load(folder, allow_pickle=True) if you trust its source" * readable
        )
        return UserError(f"{folder} holds only pickled weights ({pickles[0]}), which are not read", fix=fix)
    return UserError(f"{folder} holds no {WHOLE}", fix="name a folder that save() or transformers wrote")


def _fill_shards(tensors: dict[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and _bytes(shards[-1].values()) + _bytes([tensor]) > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor.detach().contiguous()
    return shards


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
