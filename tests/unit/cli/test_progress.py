"""Progress in a log: a line says how far a task is, and a task in which nothing is counted that it is done."""

from shoal.cli import progress


def test_what_was_counted_is_said_and_else_that_it_is_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    lines = progress.Lines()
    lines.start("Compiling", None)
    lines.finish("Compiling")
    lines.start("Reading", None)
    lines.advance("Reading", 1_500)
    lines.start("Fitting", 2)
    lines.finish("Fitting")
    assert capsys.readouterr().err.splitlines() == ["Compiling: done", "Reading: 1,500", "Fitting: 0 of 2"]
