from tests.faults.table import PAGE, page, rows


def test_the_page_tells_what_the_tests_show() -> None:
    assert len(rows()) > 10
    assert PAGE.read_text("utf-8") == page(), "run `python -m tests.faults.table`"
