"""docs/settings.md says what the code says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_settings_is_current():
    specification = importlib.util.spec_from_file_location("generate_settings", DOCS / "generate_settings.py")
    assert specification is not None
    assert specification.loader is not None
    page = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(page)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run `python docs/generate_settings.py`"
