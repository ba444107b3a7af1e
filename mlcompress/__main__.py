"""`python -m mlcompress` is the same program as `mlcompress`."""

from mlcompress.cli.app import main

main()
