"""Pictures: sections with outlined structures, and a chart of the effect of each word of a prompt.

``planes`` chooses where to cut a volume, ``outlines`` smooths the outline of a mask, ``page`` draws sections and legend
on one page; ``preview`` and ``prompt_map`` are what inference writes, and evaluation draws its pictures with ``page``.

To add a picture of sections: a module that takes panels from ``planes.choose_panels`` and gives ``page.draw_page`` rows
of ``Cell``; the caller writes the PNG under its own name.
"""
