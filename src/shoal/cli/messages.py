"""Warnings of the library on the command line: one line each on stderr, above the progress."""

import logging

import click

_LOGGER = "shoal"


class Messages(logging.Handler):
    """Writes log records as ``warning: ...``; unprintable characters become a mark, as in every output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        words = " ".join(record.getMessage().split())
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
        click.echo(f"{record.levelname.lower()}: {shown}", err=True)


def show_messages(*, debug: bool) -> None:
    """Show warnings, with ``debug`` also what is merely worth knowing; called again it changes the level."""
    logger = logging.getLogger(_LOGGER)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    if not any(isinstance(handler, Messages) for handler in logger.handlers):
        logger.addHandler(Messages())
    logger.propagate = False
