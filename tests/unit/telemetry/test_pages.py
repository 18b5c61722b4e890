import os
import subprocess
import sys
import threading

import pytest

from shoal.telemetry.pages import Page, new_page, newest_stamped, stamped


@pytest.fixture
def descriptor():
    made = new_page()
    yield made
    os.close(made)


def test_a_new_page_is_empty(descriptor):
    assert Page(descriptor).read() is None


def test_what_was_written_last_is_read(descriptor):
    page = Page(descriptor)
    for content in (b"first", b"", b"x" * 100_000, b"last"):
        page.write(content)
        assert page.read() == content


def test_a_relative_reads_it(descriptor):
    code = f"import sys; from shoal.telemetry.pages import Page; Page({descriptor}).write(b'from the child')"
    subprocess.run([sys.executable, "-c", code], pass_fds=[descriptor], check=True)
    assert Page(descriptor).read() == b"from the child"


def test_a_reader_never_sees_half_of_it(descriptor):
    page, ended, torn = Page(descriptor), threading.Event(), []

    def look():
        while not ended.is_set():
            content = page.read()
            if content and content != content[:1] * len(content):
                torn.append(content)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(2000):
        page.write(bytes([65 + number % 26]) * (1 + number * 7 % 9000))
    ended.set()
    reader.join()
    assert torn == []


def test_what_is_too_large_is_refused(descriptor):
    page = Page(descriptor)
    page.write(b"kept")
    with pytest.raises(ValueError, match="a page holds"):
        page.write(b"x" * ((16 << 20) + 1))
    assert page.read() == b"kept"


def test_of_several_pages_the_newest_stamp_counts(descriptor):
    other = new_page()
    pages = [Page(descriptor), Page(other)]
    assert newest_stamped(pages) is None
    pages[1].write(stamped(2.0, b"later"))
    assert newest_stamped(pages) == (2.0, b"later")
    pages[0].write(stamped(1.0, b"sooner"))
    assert newest_stamped(pages) == (2.0, b"later")
    os.close(other)
