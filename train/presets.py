"""Recipes by name.

Sources of the numbers: "sec." is a section of arXiv:1708.05038; "prototxt" the authors' released caffe files; "ours"
has no source. Common to all are the defaults of TrainConfig: SGD with momentum 0.9, weight decay 5e-5 but none on BN
and the fc bias, twice the rate for the fc bias, pixels minus 128 and not scaled, frames of 128 lines, one random
112x112 crop and a mirror (prototxt).
"""

from dataclasses import dataclass, replace
from typing import Any

from res3d_video.pipeline.augment import Augmentation
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.train.config import OptimConfig, ScheduleConfig, TrainConfig
from res3d_video.train.models import BLOCKS, ModelConfig

UCF101 = TrainConfig(
    model=ModelConfig("res3d18"),  # sec. 3, Table 2
    clip=ClipSpec(num_frames=8, frame_stride=2, crop_size=112),  # sec. 3
    optim=OptimConfig(lr=0.01),  # sec. 3; momentum and decay are prototxt
    schedule=ScheduleConfig("step", decay_every=20_000, decay_factor=0.1),  # sec. 3
    steps=90_000,  # sec. 3
    global_batch_size=20,  # sec. 3
)
SPORTS1M = TrainConfig(
    model=ModelConfig("res3d18"),  # sec. 4
    clip=ClipSpec(num_frames=8, frame_stride=2, crop_size=112),  # sec. 4
    optim=OptimConfig(lr=0.01),  # sec. 4
    schedule=ScheduleConfig("step", decay_every=250_000, decay_factor=0.5),  # sec. 4
    steps=3_000_000,  # sec. 4; the released weights are of step 2,800,000
    global_batch_size=40,  # sec. 4, on two GPUs
    eval_clips=10,  # sec. 4, Table 8
    eval_every=100_000,  # ours
    save_every=5_000,  # ours
    keep_every=250_000,  # ours
    log_every=50,  # ours
)
RES2D: dict[str, Any] = {
    "model": ModelConfig("res2d18"),
    "clip": ClipSpec(num_frames=1, frame_stride=1, crop_size=112),
}  # sec. 3, 4
FINETUNE = TrainConfig(
    optim=OptimConfig(lr=0.001),  # prototxt, solver_r2; all layers alike
    schedule=ScheduleConfig("step", decay_every=5_000, decay_factor=0.1),  # prototxt, solver_r2
    steps=20_000,  # prototxt, solver_r2
    global_batch_size=24,  # prototxt; its log starts at a loss of 2.1 to 2.6 after 250 steps
    eval_every=1_000,  # ours
)

PRESETS: dict[str, TrainConfig] = {
    # UCF101 from scratch, as in the architecture search; clip accuracy 45.6 % on split 1 (Table 3).
    "ucf101-search": UCF101,
    # Sports-1M from scratch, the published model; clip@1 48.8 %, video@1 65.6 %, video@5 87.8 % (Table 8).
    "sports1m": SPORTS1M,
    # The 2D nets beside them: one frame, the same recipe; 42.2 % (Table 3), clip@1 45.5 %, video@1 59.4 % (Table 8).
    "ucf101-search-2d": replace(UCF101, **RES2D),
    "sports1m-2d": replace(SPORTS1M, **RES2D),
    # C3D as its own paper trained it, for comparison; clip@1 46.1 %, video@1 61.1 %, video@5 85.2 % (Table 8).
    "sports1m-c3d": replace(
        SPORTS1M,
        model=ModelConfig("c3d"),  # sec. 4
        clip=ClipSpec(num_frames=16, frame_stride=1, crop_size=112),  # C3D, sec. 3
        optim=OptimConfig(lr=0.003),  # C3D, sec. 3.2
        schedule=ScheduleConfig("step", decay_every=150_000, decay_factor=0.5),  # C3D, sec. 3.2
        steps=1_900_000,  # C3D, sec. 3.2
        global_batch_size=30,  # C3D, sec. 3.2
    ),
    # From Sports-1M weights; accuracy 85.8 % over the three splits (Table 9).
    "finetune-ucf101": FINETUNE,
    # The recipe behind 54.9 % on HMDB51 (Table 10) is NOT published: this is that of UCF101.
    "finetune-hmdb51": FINETUNE,
    # For two CPU cores and small sets: half the blocks, a quarter as wide, on a quarter of the pixels.
    "tiny": TrainConfig(
        model=ModelConfig("res3d10", width=16),  # ours
        clip=ClipSpec(num_frames=8, frame_stride=2, crop_size=56, resize=64),  # the paper's smallest resolution
        optim=OptimConfig(lr=0.05),  # ours; at 0.02 and depth 18 Weizmann stays at half the accuracy
        schedule=ScheduleConfig("cosine", warmup_steps=20),  # ours
        steps=1_000,  # ours
        global_batch_size=16,  # ours
        eval_every=100,  # ours
        save_every=100,  # ours
        log_every=1,  # ours
    ),
    # What has become usual since, on UCF101 from scratch; none of it is in the paper.
    "modern": TrainConfig(
        model=ModelConfig("res3d18", zero_init_gamma=True),  # SlowFast
        optim=OptimConfig(lr=0.08, weight_decay=1e-4),  # ours; torchvision's video recipes decay by 1e-4
        schedule=ScheduleConfig("cosine", warmup_steps=1_400),  # SlowFast; a tenth of the run
        steps=14_000,  # ours: as many clips as ucf101-search
        global_batch_size=128,  # ours
        augment=Augmentation(
            random_resized_crop=(0.2, 1.0),  # ours; MViTv2 begins at 0.08, with 224 pixels
            color_jitter=(0.4, 0.4, 0.4, 0.1),  # MoCo v2
            grayscale=0.2,  # MoCo v2
            erasing=0.25,  # MViTv2
        ),
        mixup=0.8,  # MViTv2
        cutmix=1.0,  # MViTv2
        label_smoothing=0.1,  # MViTv2
        ema=0.999,  # ours
        eval_every=1_000,  # ours
    ),
}

# Recipes that start from trained weights: --init-from is required.
NEEDS_WEIGHTS = frozenset({"finetune-ucf101", "finetune-hmdb51"})

PIXEL = 255  # torchvision scales pixels to 0…1 first
TORCHVISION_MEAN, TORCHVISION_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # of every video model


@dataclass(frozen=True)
class TrainingClips:
    """The clips that published weights were trained on.

    Attributes:
        mean, std: Clips are (pixel - mean) / std, pixels 0…255; one value or three, RGB.
        note: What a checkpoint cannot express of it; may be empty.
    """

    clip: ClipSpec
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 1.0
    note: str = ""


# torchvision: 16 frames of videos at 15 frames/s, half of what most have. (x / 255 - m) / s is (x - 255 m) / (255 s).
KINETICS = TrainingClips(
    ClipSpec(num_frames=16, frame_stride=2),
    mean=tuple(PIXEL * value for value in TORCHVISION_MEAN),
    std=tuple(PIXEL * value for value in TORCHVISION_STD),
)
RES3D = TrainingClips(ClipSpec(num_frames=8, frame_stride=2))  # the authors' network files, as the paper's section 4
C3D = TrainingClips(
    ClipSpec(num_frames=16, frame_stride=1),
    note="C3D was trained on pixels minus the mean clip of Sports-1M, each place and frame its own value; one value a "
    "colour stands for it here, so outputs differ a little from the authors', most where that clip is not uniform",
)
SOURCES: dict[str, dict[str, TrainingClips]] = {
    "torchvision": dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), KINETICS),
    "caffe": {**{f"res3d{depth}": RES3D for depth in BLOCKS}, "c3d": C3D},
}
