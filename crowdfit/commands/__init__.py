"""The commands of the command line, one module each; `crowdfit.cli` puts them together."""
