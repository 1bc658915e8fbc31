"""Files and functions stay short, or say why not."""

import size_report


def test_no_ceiling_is_crossed_without_a_reason():
    sizes = size_report.measure()
    assert len(sizes) > 30
    assert not size_report.unreasoned(sizes)


def test_every_reason_is_still_needed():
    over = {size.name for size in size_report.measure() if size.lines > size.ceiling}
    assert set(size_report.REASONS) == over


def test_the_report_notices_a_crossed_ceiling():
    size = size_report.Size("nn/attention.py", 251, 250)
    assert size_report.unreasoned([size]) == [size]
    assert not size_report.unreasoned([size_report.Size("nn/attention.py", 250, 250)])
