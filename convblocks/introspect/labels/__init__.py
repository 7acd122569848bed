"""Labels: what the elements of a tensor depend on, in a form that every rule can carry along.

A label array has one leading dimension of features; the others follow the tensor's shape, of length 1 where the labels
do not vary. Merging what two elements depend on is an elementwise minimum. For the interval lo..hi of input rows the
features are (lo, -hi), so that the minimum is the hull; what depends on nothing has `NOTHING` everywhere. The rules
know only the minimum, so the same rules serve intervals and masks of reached pixels alike.

Three kinds of arrays are put together only when somebody looks at `data`. A `Concatenation` of channels is most often
read by a convolution that mixes them. A `Minimum` has merged rows with columns, as the scores of an attention do. A map
that a view has `Flattened` to places, as transformers do, keeps its rows and columns: along one axis of the input its
labels vary along one of the two.
"""

from convblocks.introspect.labels.concatenation import Concatenation, joined, same
from convblocks.introspect.labels.flattened import Flattened, merge
from convblocks.introspect.labels.gathering import least, least_of_middle, least_of_run, middle_of, slices
from convblocks.introspect.labels.minimum import Minimum
from convblocks.introspect.labels.plain import Identity, Labels
from convblocks.introspect.labels.reshaping import reshaped
from convblocks.introspect.labels.unions import union

__all__ = [
    "Concatenation",
    "Flattened",
    "Identity",
    "Labels",
    "Minimum",
    "joined",
    "least",
    "least_of_middle",
    "least_of_run",
    "merge",
    "middle_of",
    "reshaped",
    "same",
    "slices",
    "union",
]
