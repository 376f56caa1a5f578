"""A directory tree as one deterministic stream of bytes, and back: what a system checkpoint remembers of a workspace.

The idea: the contents of all files first, one after the other in path order, then everything that is known about
them, then the end. So a file that did not change is the same run of bytes in every stream and is stored once, however
its neighbours change; and no length has to be known before the file was read. ``stream`` draws the format.

The tree may be hostile: nothing is ever opened by more than one name at a time (``descent``), no link is followed,
pipes and devices are not opened. What cannot be read is written down as such and left alone by a restore.

Not remembered: owners, extended attributes, access times, and which names are hard links of one file (each becomes a
file of its own). Nothing here decides when a tree is captured or where its stream is kept.
"""

from selfware_common.trees.capturing import TreeOutput, write_tree, write_tree_again
from selfware_common.trees.comparing import Difference, diff_trees, tree_digest
from selfware_common.trees.errors import (
    TreeCaptureError,
    TreeDamagedError,
    TreeRestoreError,
    TreeTooLargeError,
    TreeVersionError,
)
from selfware_common.trees.index import TreeIndex
from selfware_common.trees.planning import Plan, plan_restore
from selfware_common.trees.reading import Tree, read_tree
from selfware_common.trees.rebuilding import Rebuilding
from selfware_common.trees.restoring import Restored, restore_tree
from selfware_common.trees.stream import Entry, Kind
from selfware_common.trees.summary import Limits, Summary

__all__ = [
    "Difference",
    "Entry",
    "Kind",
    "Limits",
    "Plan",
    "Rebuilding",
    "Restored",
    "Summary",
    "Tree",
    "TreeCaptureError",
    "TreeDamagedError",
    "TreeIndex",
    "TreeOutput",
    "TreeRestoreError",
    "TreeTooLargeError",
    "TreeVersionError",
    "diff_trees",
    "plan_restore",
    "read_tree",
    "restore_tree",
    "tree_digest",
    "write_tree",
    "write_tree_again",
]
