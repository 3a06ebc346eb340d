"""What the pages promise of other programs: training loops that resume exactly, shards read without this project."""

from typing import Any

import numpy as np
import pytest

from res3d_video.tools.numbered import number_of, read_bits
from tests.docs.blocks import all_blocks
from tests.docs.world import World


def names_of_block(package: str, world: World) -> dict[str, Any]:
    """What the block of the page that uses a package leaves behind."""
    pytest.importorskip(package, reason=f"{package} is not installed", exc_type=Exception)
    block = next(
        b for b in all_blocks() if b.page.name == "api.md" and f"import {package}" in b.text.replace("from", "import")
    )
    return world.execute(block.text, where=str(block))


@pytest.mark.slow
def test_lightning_goes_on_in_the_middle_of_an_epoch_with_the_next_batch(at_home: World) -> None:
    names = names_of_block("lightning", at_home)

    def taken(**how: Any) -> list[tuple[int, list[int]]]:
        """Step and starts of each batch that was trained on."""
        seen = []

        class Seeing(names["Classifier"]):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append((batch.step, batch.starts.tolist()))
                return super().training_step(batch, batch_idx)

        clips = names["Clips"]("shards/mine", global_batch_size=1)
        trainer = names["lightning"].Trainer(
            max_steps=how.pop("max_steps"), accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Seeing(len(clips.index.classes)), datamodule=clips, **how)
        trainer.save_checkpoint("half.ckpt")
        return seen

    whole = taken(max_steps=9)  # four steps an epoch
    assert [step for step, _ in whole] == list(range(9))
    first = taken(max_steps=6)
    assert first + taken(max_steps=9, ckpt_path="half.ckpt") == whole


@pytest.mark.slow
def test_accelerate_goes_on_with_the_next_batch(at_home: World) -> None:
    names = names_of_block("accelerate", at_home)
    loader = names["loader"]
    assert loader.state_dict()["position"] == 3 * 4
    following = next(iter(loader))
    names["accelerator"].load_state("state")
    again = next(iter(loader))
    loader.close()
    assert again.step == 3
    assert (again.starts == following.starts).all()


def test_webdataset_and_pillow_turn_strips_back_into_frames(at_home: World) -> None:
    block = next(b for b in all_blocks() if 'decode("pil")' in b.text and "strip.crop" in b.text)
    names = at_home.execute(block.text, where=str(block))
    shown = [number_of(read_bits(np.array(frame), grey=128)) for frame in names["frames"]]
    assert shown == list(range(names["meta"]["num_frames"]))
    assert len(shown) > 16
