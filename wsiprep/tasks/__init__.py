"""Commands without a terminal: each module is one thing a user can ask for.

prepare.py  slides to feature grids: the one place that knows the order of the stages
steps.py    what one stage does to one slide's store
inputs.py   which slides: files, folders, globs, manifest
estimate.py what a run would cost
evaluate_tissue.py  how good found tissue is, against references
convert_text.py  public sets of texts on slides to the manifest; formats in convert/
inspect.py  what a slide or a store holds
doctor.py   what this machine can do
demo.py     the whole pipeline on a synthetic slide
"""
