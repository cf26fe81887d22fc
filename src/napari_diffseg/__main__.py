"""``python -m napari_diffseg`` is ``napari-diffseg``, also where scripts are not on the path."""

from __future__ import annotations

import sys

from napari_diffseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
