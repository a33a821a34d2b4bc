"""One network as one page that explains where its time goes; needs the extra `report` (plotly, matplotlib)."""

from __future__ import annotations

from .charts import Chart
from .ladder import ladder_charts, read_ladder
from .page import report_page

__all__ = ["Chart", "ladder_charts", "read_ladder", "report_page"]
