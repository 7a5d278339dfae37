"""A page as tests read it: headings, anchors, tables, images and paragraphs, by Python's own parser."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        headings: (level, text, id) in order.
        tables: Caption -> rows of cells, the head first.
        images: Attributes of every image.
        captions: Of figures.
        missing, alerts: Texts that say what is not there, and what to look at.
        tags, links, ids: Names of all elements, targets of all links, all ids.
        open: Elements that are not closed.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.headings, self.tables, self.images, self.captions = [], {}, [], []
        self.missing, self.alerts, self.tags, self.links, self.ids = [], [], [], [], []
        self.open, self.text, self.rows, self.caption = [], "", [], ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)
        if tag not in VOID:
            self.open.append((tag, attrs))
        if tag == "tr":
            self.rows.append([])
        if tag == "table":
            self.rows = []
        if tag in ("h1", "h2", "h3", "h4", "p", "li", "td", "th", "caption", "figcaption", "code", "title"):
            self.text = ""

    def handle_endtag(self, tag):
        opened, attrs = self.open.pop()
        assert opened == tag, (opened, tag)
        text = " ".join(self.text.split())
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), text, attrs.get("id")))
        elif tag in ("td", "th"):
            self.rows[-1].append(text)
        elif tag == "caption":
            self.caption = text
        elif tag == "table":
            self.tables[self.caption.split(". ", 1)[1]] = self.rows
        elif tag == "figcaption":
            self.captions.append(text)
        elif tag == "p" and attrs.get("class") == "missing":
            self.missing.append(text)
        elif tag == "li" and any(a.get("class") == "alert" for _, a in self.open):
            self.alerts.append(text)

    def handle_data(self, data):
        self.text += data

    def table(self, caption):
        """Rows of one table as dicts by head."""
        head, *rows = self.tables[caption]
        return [dict(zip(head, row, strict=True)) for row in rows]

    def values(self, caption):
        """A table of two columns as a dict."""
        return {row[0]: row[1] for row in self.tables[caption][1:]}
