"""Names that must not become part of a folder or a key unchanged."""

from zooadapt.targets import Band, Bands, Target

ODD = Target(Bands("../../outside", (Band("../x"), Band("y"))), "nearest")
