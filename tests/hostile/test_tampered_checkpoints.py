"""Checkpoints that were damaged, or written to do harm: each is whole, or refused in one line, at bounded cost."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.train.checkpoint import FORMAT, load_checkpoint, load_latest, load_weights
from res3d_video.train.config import from_dict
from res3d_video.train.importing import import_weights
from res3d_video.train.models import build_model
from res3d_video.train.step import build_optimizer
from tests.checkpoints import tiny_state
from tests.foreign_weights import TorchvisionForward
from tests.hostile.tampering import VALUES, bounded_memory, bytes_tampered, changed, is_one_line, places, zip_tampered


def bytes_of(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def use(path: Path) -> None:
    """What training, evaluation and reports do with a checkpoint."""
    state = load_checkpoint(path)
    config = from_dict(state["config"])
    model = build_model(config.model, num_classes=len(state["classes"]))
    model.load_state_dict(state["model"])
    assert load_weights(
        build_model(config.model, num_classes=len(state["classes"])), path, state, classes=state["classes"]
    )
    optimizer = build_optimizer(model, config.optim, fused=False)
    if state["optimizer"]:
        optimizer.load_state_dict(state["optimizer"])
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert state["loader"]["position"] == state["step"] * config.global_batch_size
    torch.Generator().set_state(state["rng"])
    assert all(isinstance(name, str) for name in state["classes"])
    assert f"{state['step']:,} {state['best_accuracy']:.3f} {state['data']['name']}"


def refusal(read: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The line that refuses a file, "" where it is taken; fails for any other exception."""
    try:
        read(*arguments, **options)
    except UserError as error:
        return str(error)
    return ""


WHOLE = {"format": FORMAT, **tiny_state()}


def fields() -> Iterator[tuple[str, bytes]]:
    """Each field as something else, for each another quarter of all that there is."""
    shown = [
        place for place in places(WHOLE)
        if not (place[:1] == ("model",) and place[1:] not in ((), ("head.weight",)))
        and not (place[:2] == ("optimizer", "state") and place[2:3] not in ((), (0,)))
    ]  # fmt: skip
    for i, place in enumerate(shown):
        for name in [*VALUES][i % 4 :: 4]:
            yield f"{place} {name}", bytes_of(changed(WHOLE, place, VALUES[name]))


def tensors() -> Iterator[tuple[str, bytes]]:
    """Tensors of other shapes, types and kinds."""
    weight = WHOLE["model"]["head.weight"]
    for place in (("model", "head.weight"), ("optimizer", "state", 0, "momentum_buffer"), ("rng",)):
        for name, value in {
            "double": weight.double(), "half": weight.half(), "complex": weight.to(torch.complex64),
            "turned": weight.t(), "a row more": torch.cat([weight, weight[:1]]), "empty": weight[:0],
            "flat": weight.flatten(), "bool": weight.bool(), "sparse": weight.to_sparse(), "scalar": weight.sum(),
            "of 10**12": torch.zeros(1).expand(10**6, 10**6), "overlapping": torch.zeros(1).expand_as(weight),
            "quantized": torch.quantize_per_tensor(weight.detach(), 0.1, 0, torch.qint8),
            "a parameter": torch.nn.Parameter(torch.zeros(2)), "without numbers": torch.empty(9, 9, device="meta"),
            "random": torch.randint(0, 255, (5056,), dtype=torch.uint8),
        }.items():  # fmt: skip
            yield f"{place} {name}", bytes_of(changed(WHOLE, place, value))
    wide = changed(WHOLE, ("config", "model", "width"), 1000)
    yield "a wide network with narrow weights", bytes_of(wide)
    yield "many classes", bytes_of(WHOLE | {"classes": [str(i) for i in range(10**5)]})
    yield "a state of hooks", bytes_of(WHOLE | {"model": with_attribute(WHOLE["model"], "_metadata", "no dict")})


def with_attribute(value: Any, name: str, attribute: Any) -> Any:
    value = type(value)(value)
    setattr(value, name, attribute)
    return value


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def pickles() -> Iterator[tuple[str, bytes]]:
    """Pickles that do something."""
    for function, argument in ((bytearray, 10**10), (os.system, "true"), (eval, "1"), (torch.FloatTensor, 10**10),
                               (set, range(3)), (torch.Size, [10**9]), (complex, 1)):  # fmt: skip
        yield f"calls {function.__name__}", bytes_of(WHOLE | {"classes": Call(function, argument)})
    whole = bytes_of(WHOLE)
    outer = {"deep lists": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
             "deep dicts": b"\x80\x02" + b"}K\0" * 10**5 + b"N" + b"s" * 10**5 + b".",
             "a long number": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\1" * 99 + b".",
             "a long text": b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 99 + b".",
             "memo of 2**31": b"\x80\x02Nr\xff\xff\xff\x7f.",
             "no end": b"\x80\x02N", "protocol 5": pickle.dumps(WHOLE["config"], 5),
             "a number": b"\x80\x02K\1."}  # fmt: skip
    for name, content in outer.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, content if entry.filename.endswith("data.pkl") else old.read(entry))
        yield name, buffer.getvalue()
        yield f"{name}, alone", content
    shared: Any = "x"
    for _ in range(60):
        shared = [shared, shared]  # 2**60 leaves
    yield "shared lists", bytes_of(WHOLE | {"classes": shared})
    yield "classes twice", bytes_of(WHOLE | {"classes": ["a", "a", "c"]})


FAMILIES = {
    "fields": fields, "tensors": tensors, "pickles": pickles, "bytes": lambda: bytes_tampered(bytes_of(WHOLE)),
    "zip": lambda: zip_tampered(bytes_of(WHOLE)),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what it is about to give up
def test_a_tampered_checkpoint_is_refused_in_one_line(family: str, tmp_path: Path) -> None:
    path, refused, taken = tmp_path / "latest.pt", 0, []
    with bounded_memory():
        for name, content in FAMILIES[family]():
            path.write_bytes(content)
            line = refusal(use, path)
            if line:
                assert is_one_line(line), name
                assert str(path) in line, name
                refused += 1
            else:
                taken.append(name)
    assert refused >= {"fields": 120, "tensors": 45, "pickles": 20, "bytes": 50, "zip": 30}[family]
    impossible = [name for name in taken if name.endswith((" huge", " nan", " infinite", " nested", " long"))]
    # Of groups only lr and fused are read, and any finite rate may be tried.
    assert not [name for name in impossible if "param_groups" not in name and "'lr'" not in name]
    assert len(taken) <= {"fields": 200}.get(family, 1)


def test_a_folder_of_tampered_checkpoints_is_one_error_and_a_line_for_each(tmp_path: Path) -> None:
    said: list[str] = []
    for name, content in zip(("latest.pt", "best.pt", "step-3.pt"), (b"", b"PK", bytes_of({})), strict=True):
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "previous.pt")
    with pytest.raises(UserError, match="no file in"):
        load_latest(tmp_path, say=said.append)
    assert len(said) == 3
    assert all(is_one_line(line) for line in said)


@pytest.mark.parametrize("name", ["a folder", "a pipe", "a device", "a loop"])
def test_what_is_no_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a device": lambda: path.symlink_to("/dev/zero"),
     "a loop": lambda: path.symlink_to(path.name)}[name]()  # fmt: skip
    line = refusal(use, path)
    assert is_one_line(line)
    assert str(path) in line


def tampered_weights() -> Iterator[tuple[str, str, bytes]]:
    """Files of torchvision's and caffe's weights: name, source, content."""
    theirs = TorchvisionForward("mc3_18")
    with torch.no_grad():
        theirs(torch.zeros(1, 3, 8, 32, 32))  # makes the weights
    state = theirs.state
    fc = state["fc.weight"]
    for name, value in {
        "expanded": torch.zeros(1).expand(10**6, 10**6), "turned": fc.t(), "double": fc.double(), "text": "x",
        "number": 1, "wide": torch.zeros(1, 8 * 1000), "of no class": fc[:0], "flat": fc.flatten(), "bool": fc.bool(),
        "scalar": fc.sum(), "complex": fc.to(torch.complex64), "sparse": fc.to_sparse(), "a dict": {"x": fc},
    }.items():  # fmt: skip
        yield f"fc {name}", "torchvision", bytes_of(state | {"fc.weight": value})
    yield "calls", "torchvision", bytes_of(state | {"x": Call(bytearray, 10**10)})
    old = io.BytesIO()
    torch.save(state | {"x": Call(bytearray, 10**10)}, old, _use_new_zipfile_serialization=False)
    yield "an old file that calls", "torchvision", old.getvalue()
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    for way, content in bytes_tampered(old.getvalue(), flips=10, cuts=6):
        yield f"an old file {way}", "torchvision", content
    for way, content in zip_tampered(bytes_of(state), bomb=2**29):
        yield way, "torchvision", content
    for kind in (np.float32, np.int64, np.complex64, np.str_):
        blobs = {"fc8.0": np.zeros((3, 32), kind), "conv1.0": np.zeros(4, kind)}
        buffer = io.BytesIO()
        np.savez(buffer, **blobs)
        yield f"blobs of {kind.__name__}", "caffe", buffer.getvalue()
    for way, content in zip_tampered(buffer.getvalue(), bomb=2**29):
        yield f"blobs {way}", "caffe", content


MODEL_OF = {"torchvision": "mc3_18", "caffe": "res3d18"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tampered_weights_of_others_are_refused_in_one_line(tmp_path: Path) -> None:
    path, num_refused = tmp_path / "weights", 0
    with bounded_memory():
        for name, source, content in tampered_weights():
            path.write_bytes(content)
            line = refusal(import_weights, path, source=source, model=MODEL_OF[source])
            assert not line or (is_one_line(line) and str(path) in line) or line.startswith("convert: "), name
            num_refused += bool(line)
    assert num_refused > 70
