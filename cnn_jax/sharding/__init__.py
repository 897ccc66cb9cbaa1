"""Meshes of devices, and the shardings of arrays on them.

Training is global-view SPMD: one program on all devices, the batch split over the mesh
and the state copied or split by rules; XLA inserts the collectives. A mesh has
up to three axes:

    data      splits the batch; the state is replicated along it
    fsdp      splits the batch, and also the state's large leaves
    spatial   splits the images' height, for images that do not fit one device
"""

from cnn_jax.sharding.meshes import DATA_AXIS as DATA_AXIS
from cnn_jax.sharding.meshes import FSDP_AXIS as FSDP_AXIS
from cnn_jax.sharding.meshes import SPATIAL_AXIS as SPATIAL_AXIS
from cnn_jax.sharding.meshes import batch_sharded as batch_sharded
from cnn_jax.sharding.meshes import batch_shardings as batch_shardings
from cnn_jax.sharding.meshes import check_batch_size as check_batch_size
from cnn_jax.sharding.meshes import check_image_height as check_image_height
from cnn_jax.sharding.meshes import image_sharded as image_sharded
from cnn_jax.sharding.meshes import make_mesh as make_mesh
from cnn_jax.sharding.meshes import num_batch_shards as num_batch_shards
from cnn_jax.sharding.meshes import own_mesh as own_mesh
from cnn_jax.sharding.meshes import parse_mesh as parse_mesh
from cnn_jax.sharding.meshes import replicated as replicated
from cnn_jax.sharding.meshes import with_automatic_axes as with_automatic_axes
from cnn_jax.sharding.rules import bytes_per_device as bytes_per_device
from cnn_jax.sharding.rules import parse_partition as parse_partition
from cnn_jax.sharding.rules import state_shardings as state_shardings
