"""The model behind `scripts/make_phantom.py`: anatomy, tumour and contrast of the sample case."""
