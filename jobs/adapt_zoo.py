"""Adapt a zoo's pretrained models to other channel counts: the batch job.

    ray job submit -- python jobs/adapt_zoo.py --chans 1,4,8,25

This script is the same as `zooadapt adapt`. `--help` lists the options.
"""

from zooadapt.cli.main import adapt, script

if __name__ == "__main__":
    script(adapt)
