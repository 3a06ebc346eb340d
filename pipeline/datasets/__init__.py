"""One adapter per dataset: from a folder of videos and its lists to a Listing.

Every adapter takes the raw folder first and its own options by keyword, reads names but no videos, and raises
DatasetError if the folder or a list is wrong. A new dataset is one file here and one line below.
"""

from collections.abc import Callable

from res3d_video.pipeline.datasets.folder import list_folder
from res3d_video.pipeline.datasets.hmdb51 import list_hmdb51
from res3d_video.pipeline.datasets.listing import DatasetError as DatasetError
from res3d_video.pipeline.datasets.listing import Listing
from res3d_video.pipeline.datasets.listing import VideoRecord as VideoRecord
from res3d_video.pipeline.datasets.sports1m import list_sports1m
from res3d_video.pipeline.datasets.table import list_diving48, list_kinetics, list_ssv2, list_table
from res3d_video.pipeline.datasets.ucf101 import list_ucf101

DATASETS: dict[str, Callable[..., Listing]] = {
    "ucf101": list_ucf101,
    "hmdb51": list_hmdb51,
    "sports1m": list_sports1m,
    "kinetics": list_kinetics,
    "ssv2": list_ssv2,
    "diving48": list_diving48,
    "table": list_table,
    "folder": list_folder,
}
