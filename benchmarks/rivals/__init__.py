"""How crowdfit stands against what its users would otherwise use.

    python -m benchmarks.rivals install            # one environment per Python rival, in a cache folder
    python -m benchmarks.rivals list               # name, version, and what is missing
    python -m benchmarks.rivals run dense --seeds 5 --size 512 --out rivals.jsonl

Every rival runs in processes of its own; wall time, CPU time and peak memory are those of the operating
system, and every catalogue is scored by `benchmarks.score`. One module per rival; its settings stand at its
top, each with its reason. None is told the PSF: they build it from the image, as their users would.
"""
