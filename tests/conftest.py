"""What all tests share."""

from hypothesis import settings

# No example fails for its time: these machines are shared, and a law is no slower for being late.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
