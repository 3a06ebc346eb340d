"""No network reaches a kernel of oneDNN that corrupts memory, on whatever CPU this runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
UPDATES = """
import torch
from res3d_video.train.models import MODELS, ModelConfig, build_model

torch.set_num_threads(1)
widths = {name: [8] for name in MODELS} | {"res2d18": range(4, 17), "res3d10": range(4, 17)}
for name, model in MODELS.items():
    for width in widths[name]:
        print(f"{name} {width}", flush=True)
        size = model.crop_size if "crop_size" in model.fixed else 32
        clips = torch.randn(2, 3, model.num_frames, size, size).contiguous(memory_format=torch.channels_last_3d)
        build_model(ModelConfig(name, width=width), num_classes=2)(clips).sum().backward()
"""


def test_no_model_of_any_width_gives_a_1x1_kernel_a_stride_or_corrupts_a_heap_that_is_checked() -> None:
    variables = os.environ | {"ONEDNN_VERBOSE": "1", "MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    command = [sys.executable, "-c", UPDATES]
    done = subprocess.run(command, cwd=CHECKOUT, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-1000:])
    model, seen, wrong = "", 0, set()
    for line in done.stdout.splitlines():
        if not line.startswith("onednn_verbose"):
            model = line
        elif ",exec," in line and ",convolution," in line:
            seen += 1
            if ",jit_1x1:" in line and re.search(r"s[dhw]2", line.rpartition(",mb")[2]):
                wrong.add(model)
    assert seen > 1000
    assert not wrong
