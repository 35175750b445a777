"""Names that a folder or a key must not be made of as they are."""

from zooadapt.targets import Band, Bands, Target

ODD = Target(Bands("../../outside", (Band("../x"), Band("y"))), "nearest")
