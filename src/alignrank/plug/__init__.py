"""Parts of ours in the models of other libraries: FINE in the pyramids of torchvision and of transformers.

`import alignrank.plug` takes neither library: a host's is imported when one of its models is met.
"""

from alignrank.plug.fine import add_fine, remove_fine
from alignrank.plug.modulated import HOSTS

__all__ = ["HOSTS", "add_fine", "remove_fine"]
