"""The report: one self-contained page, and each of its tables as Markdown and CSV.

Data flows one way: results → numbers (``_table``, ``_statistics``) → tables and figures
(``_papers``, ``_ranking``, ``_best_search``, ``_anytime``, ``_selected``, ``_studies``,
``_schedules``, ``_sensitivity_maps``) and words (``_summary``) → ``_sections`` → ``_page``. Each
figure is a pure ``_get_…_info`` step and a thin drawing step.
"""

from comparisons._report._write import SENSITIVITY_RUNS, write_report, write_sensitivity


__all__ = ["SENSITIVITY_RUNS", "write_report", "write_sensitivity"]
