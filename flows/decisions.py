"""What is decided of a job before an engine runs, stage by stage; each is sealed in the run folder and made once."""

from flows.admit import admit
from flows.certify import look_on
from flows.earlier import take_earlier
from flows.stages import collapse, route

DECISIONS = (admit, collapse, take_earlier, route, look_on)
