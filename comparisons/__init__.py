"""Compares tuners on the same problems: ``python -m comparisons``.

Every tuner gets the same objective, data, seeds and epochs. A study selects the best point of a
search on validation data, trains plainly at this point on fresh seeds, and measures the loss on
test data only then. The cost of a search is measured and expressed in plain training runs. Samplers
have a budget in plain training runs or minutes. Self-tuning and population-based training take one
search, whose cost is reported.

Data flows one way::

    problems (with networks) → _tuners (kinds in _tuner, _population with _syne_tune)
      → _search   pieces of work of one search
      → _study    one search, and the plain runs beside it and after it
      → _workers  all studies, in parallel processes
      → _results  studies.csv.gz and a table of trials for each problem
      → _report   tables as CSV and Markdown, and a page

``_session`` runs what a folder of results lacks. ``_provenance`` records settings, versions and
source code, so that only comparable studies share a table. ``_sensitivity`` uses the same workers
for runs from several starts. ``quote`` copies tables of ``results`` into documents.

To compare something else, add one file to ``problems`` or one line to ``_tuners``. This package
stands beside ``benchmarks`` and not inside: it has a command line that users run and extend, while
``benchmarks`` holds scripts for the developers of the library.
"""
