"""Keep the node's container images: references, layers unpacked once, archives in, recipes built.

Running them is the runtime's. Nothing is fetched from anywhere.
"""

from netplane.agent.images.store import Image, ImageError, Store

__all__ = ["Image", "ImageError", "Store"]
