"""What the commands that extract features share: a run over all processes, and the names of the files."""

from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.train.evaluation.features.parted import PartedExtraction
from res3d_video.train.ranks import Ranks, process_group
from res3d_video.train.terminal import OutputFile, progress

FEATURE_FILE = OutputFile(".npz", ".parquet")


def make_features(
    extraction: PartedExtraction, ranks: Ranks, *, batch_size: int, num_threads: int, quiet: bool
) -> bool:
    """Make the file, all processes together; a collective.

    Returns:
        False where it was there already, made in the same way.
    """
    if extraction.is_made(extraction.out):
        return False
    with process_group(ranks), progress("extracting", unit="batches", quiet=quiet or not ranks.is_main) as tell:
        extraction.extract(
            ranks,
            batch_size=batch_size,
            settings=LoaderSettings(num_threads=num_threads),
            on_batch=tell,
        )
        ranks.gather(None)  # collective: all parts are there
    if ranks.is_main:
        extraction.merge()
    return True
