"""The report of a run as one self-contained HTML page: inline styles and SVG, embedded pictures and video."""
