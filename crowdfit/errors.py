"""What is raised at the door: wrong input and wrong configuration.

Past the door nothing raises for a bad *source*; it gets a flag (`crowdfit.flags`) and stays in the table.
"""


class CrowdfitError(ValueError):
    """Anything the user can put right; the command line prints it as one line and exits with status 2."""


class InputError(CrowdfitError):
    """An image, extension, list or PSF that cannot be used; the message names it and the remedy."""


class ConfigError(CrowdfitError):
    """A configuration that is refused; the message has one line per offending key path."""
