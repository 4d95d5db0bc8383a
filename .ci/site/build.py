"""Builds the site: `python .ci/site/build.py FOLDER`.

The README is its first page, and each Markdown file of `GUIDES` another. The reference has a page
for each group of names in `jepa_masks_jax.__all__`, with a picture of each strategy and preset.
The build fails if a link leads nowhere, or if a page shows a name of a private module.
"""

import ast
import contextlib
import html
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
import types
from pathlib import Path

import jax
import pdoc
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pictures import draw  # noqa: E402

import jepa_masks_jax as jm  # noqa: E402
from jepa_masks_jax import _check, plotting  # noqa: E402

GUIDES = {
    "index": "README.md",
    "rows": ".github/ROWS.md",
    "recipes": ".github/RECIPES.md",
    "models": ".github/MODELS.md",
    "coming-from": ".github/COMING_FROM.md",
    "questions": ".github/QUESTIONS.md",
    "glossary": ".github/GLOSSARY.md",
    "benchmarks": "tests/benchmarks/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": ".github/CONTRIBUTING.md",
}
GUIDES = {name: ROOT / path for name, path in GUIDES.items()}
BASE = ROOT.as_uri()
if "GITHUB_SHA" in os.environ:
    BASE = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/blob/{GITHUB_SHA}".format(**os.environ)
WHERE = {}  # the address of each public name


def main(folder):
    """Writes the pictures, the pages and the search index."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / ".github" / "images", folder / "images", dirs_exist_ok=True)
    reference = [package(), *topics(), page("plotting", *described(plotting)), aliases()]
    guides = [guide(name) for name in GUIDES]
    modules = {module.modulename: module for module in [*guides, *reference]}
    project = [modules[name] for name in ("benchmarks", "changelog", "contributing")]
    guides = [module for module in guides if module not in project]
    sections = {"Guides": guides, "Reference": reference, "Project": project}
    add_contents(modules["index"], sections)
    # Fields show classes by the names that users write.
    jax.Array.__qualname__ = "Array"
    # The docstrings name repositories without a scheme.
    repository = re.compile(r"(?<![/\w])(github\.com/[\w-]+/[\w-]+)")
    pdoc.render_helpers.markdown_link_patterns.append((repository, r"https://\1"))
    pdoc.render_helpers.markdown_extensions["toc"]["depth"] = 3

    pdoc.render.configure(
        docformat="google", template_directory=Path(__file__).parent, show_source=False
    )
    dark = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    pictures = draw(folder / "pictures")
    pdoc.render.env.globals.update(pictures=pictures, dark_code=dark, sections=sections)
    pdoc.render.env.globals.update(source=source, version=jm.__version__)
    pdoc.render.env.filters["linkify"] = linkify
    pages = {name: pdoc.render.html_module(module, modules) for name, module in modules.items()}
    check(pages, folder)
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    index = [part for module in modules.values() for part in parts(module, pages)]
    search = pdoc.render.env.get_template("search.js.jinja2")
    (folder / "search.js").write_text(search.render(search_index=json.dumps(index)))


def page(name, title, text, members=(), docformat="google"):
    """Makes a page of some text and members, which pdoc takes for a module."""
    obj = types.ModuleType(name, text)
    obj.__docformat__, obj.__all__ = docformat, list(members)
    obj.__dict__.update(members)
    module = pdoc.doc.Module(obj)
    module.title = title
    WHERE.update({member: f"{name}.html#{member}" for member in members})
    classes = [member for member in module.own_members if member.kind == "class"]
    for member in sum([one.own_members for one in classes], module.own_members):
        if member.kind == "function":
            spell(member)
        elif name == "presets":
            preset = members[member.name]
            options = ", ".join(f"{key}={value!r}" for key, value in preset.keywords.items())
            member.default_value_str = f"{preset.func.__name__}({options})"
            member.docstring = inspect.cleandoc(preset.__doc__)
    return module


def package():
    """Makes the page of what `help(jepa_masks_jax)` says."""
    WHERE["jepa_masks_jax"] = "jepa_masks_jax.html"
    return page("jepa_masks_jax", "Overview", jm.__doc__)


def topics():
    """Makes a page of each group of names in `__all__`, whose comment is its title."""
    groups = r"^# (.*)\n((?:__all__ \+?= .*\n)+)"
    for title, lines in re.findall(groups, inspect.getsource(jm), re.M):
        names = re.findall(r'"(\w+)"', lines)
        if names == ["presets"]:
            yield page("presets", *described(jm.presets))
            continue
        members = {name: getattr(jm, name) for name in names}
        about = [f"| `{n}` | {obj.__doc__.splitlines()[0]} |" for n, obj in members.items()]
        slug = re.sub(r"\W+", "-", title.lower())
        yield page(slug, title, "\n".join(["| name | what it is |", "|---|---|", *about]), members)


def described(module):
    """Returns title, text and public members of a module."""
    functions = [n for n, obj in vars(module).items() if inspect.isfunction(obj) and n[0] != "_"]
    own = [name for name in functions if vars(module)[name].__module__ == module.__name__]
    members = {name: getattr(module, name) for name in getattr(module, "__all__", own)}
    name = module.__name__.removeprefix("jepa_masks_jax.")
    WHERE.update({f"{name}.{member}": f"{name}.html#{member}" for member in members})
    WHERE[name] = f"{name}.html"
    title = {"presets": "Presets", "plotting": "Pictures"}[name]
    return title, module.__doc__, members


def aliases():
    """Makes a page of the type aliases, of which each has a docstring in `_check`."""
    found = re.findall(r'^([A-Z]\w+) = (.+)\n"""(.+)"""', inspect.getsource(_check), re.M)
    WHERE.update({name: f"aliases.html#{name.lower()}" for name, _, _ in found})
    text = "Signatures name these types. You need not import them: pass what they stand for.\n"
    text += "".join(f"\n## {name}\n\n{about}\n\n    {types}\n" for name, types, about in found)
    return page("aliases", "Types in signatures", text, docformat="markdown")


def guide(name):
    """Makes a page of a Markdown file, whose first line is its title."""
    title, _, text = absolute_links(GUIDES[name]).partition("\n")
    return page(name, title.removeprefix("# "), text, docformat="markdown")


def absolute_links(path):
    """Reads a guide whose relative links lead to the pages, or else to the repository."""

    def absolute(match):
        code, file, anchor = match.groups(default="")
        if code:
            return code
        target = (path.parent / file).resolve(strict=True)
        pages = [f"{name}.html" for name, other in GUIDES.items() if other == target]
        if target.suffix == ".png":
            pages = [f"images/{target.name}"]
        return f"]({pages[0] if pages else f'{BASE}/{target.relative_to(ROOT)}'}{anchor})"

    code, link = r"(^```.*?^```|`[^`\n]+`)", r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)"
    return re.sub(f"{code}|{link}", absolute, path.read_text(), flags=re.MULTILINE | re.DOTALL)


def add_contents(index, sections):
    """Lists all pages and the notebooks after the README's quickstart."""
    lines = ["## On this site"]
    for section, modules in sections.items():
        lines += ["", f"**{section}**", ""]
        for module in modules:
            names = ", ".join(f"`{name}`" for name in module.obj.__all__)
            names = "" if module.name in ("presets", "plotting") or not names else f": {names}"
            if module is not index:
                lines.append(f"- [{module.title}]({module.modulename}.html){names}")
    lines += ["", "**Notebooks**", ""]
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        title = json.loads(path.read_text())["cells"][0]["source"][0].strip("# \n")
        lines.append(f"- [{title}]({BASE}/notebooks/{path.name})")
    listed = "\n".join(lines)
    section = r"^## [^\n]*quick ?start.*?(?=^## )"
    text, count = re.subn(
        section,
        lambda found: f"{found[0]}{listed}\n\n",
        index.docstring,
        flags=re.M | re.S | re.I,
    )
    if count != 1 or not re.search(r"^## .*install", text, re.M | re.I):
        sys.exit("README.md must have one section on installing and one named Quickstart")
    index.docstring = text


class Spelled(str):
    """An annotation that shows as it is spelled."""

    __repr__ = str.__str__


def spell(function):
    """Shows the annotations of a function as in its source, without the names of our modules."""
    with contextlib.suppress(OSError, TypeError):  # of a dataclass, __init__ has no source
        definition = ast.parse(textwrap.dedent(inspect.getsource(function.obj))).body[0]
        nodes = {a.arg: a.annotation for a in ast.walk(definition.args) if isinstance(a, ast.arg)}
        signature = inspect.signature(function.obj)

        def spelled(node):
            text = re.sub(r"\b_\w+\.", "", ast.unparse(node)) if node else ""
            return Spelled(text) if text else inspect.Signature.empty

        function.signature = signature.replace(
            parameters=[
                parameter.replace(annotation=spelled(nodes[name]))
                for name, parameter in signature.parameters.items()
            ],
            return_annotation=spelled(definition.returns),
        )


def source(doc):
    """Returns the address of a function's or a class's source, if there is one."""
    if doc.kind not in ("function", "class") or not doc.source_file or not doc.source_lines:
        return ""
    path = Path(doc.source_file).resolve()
    inside = path.is_relative_to(ROOT) and doc.name != "__init__"
    return f"{BASE}/{path.relative_to(ROOT)}#L{doc.source_lines[0]}" if inside else ""


def linkify(text, namespace="", shorten=True):
    """Links our names: in backticks, after `jm.` in code, and as types in signatures."""

    def link(match):
        plain = re.sub("<.*?>", "", match[0])
        name = re.sub(r"^(jm|jepa_masks_jax)\.|\(\)$", "", plain)
        return f'<a href="{WHERE[name]}">{match[0]}</a>' if name in WHERE else match[0]

    def link_file(match):
        pages = [name for name, path in GUIDES.items() if path == ROOT / match[1]]
        return f'<a href="{pages[0]}.html"><code>{match[1]}</code></a>' if pages else match[0]

    dot, n = r'<span class="o">\.</span>', r'<span class="n">'
    in_code = rf"{n}jm</span>{dot}(?:{n}(?:presets|plotting)</span>{dot})?{n}\w+</span>"
    text = re.sub(rf"(?<=<code>)[\w.]+(?:\(\))?(?=[(<])(?!</code></a>)|{in_code}", link, str(text))
    if shorten:
        text = re.sub(rf"(?<!{dot}){n}[A-Z]\w+</span>|^\w+(?=\()", link, text)
    file = r"<code>([\w./]+\.md)</code>(?:\s+in\s+the\s+repository)?(?!</a>)"
    text = re.sub(file, link_file, text)
    return Markup(text)


def check(pages, folder):
    """Ends the build if a link leads nowhere, or if a page shows what it should not."""
    ids = {name: set(re.findall(r'\sid="(.*?)"', text)) for name, text in pages.items()}
    private = [path.stem for path in (ROOT / "jepa_masks_jax").glob("_[a-z]*")]
    faults = []
    for name, text in pages.items():
        text = re.sub("<script.*?</script>", "", text, flags=re.S)
        for address in re.findall(r'(?:href|src)="(?!\w+:)(.*?)"', text):
            file, _, anchor = html.unescape(address).partition("#")
            other = file.removesuffix(".html") or name
            known = other in pages or (folder / file).exists()
            if not known or (anchor and anchor not in ids[other]):
                faults.append(f"{name}: {address} leads nowhere")
        plain = html.unescape(re.sub(r"<.*?>", "", text))
        if found := re.search(rf"(?<!\w)({'|'.join(private)})\.[a-zA-Z]\w*", plain):
            faults.append(f"{name}: shows the private name {found[0]}")
        if name not in GUIDES and "<em>" in text:  # the docstrings emphasize nothing
            faults.append(f"{name}: a * is taken for emphasis; put it in backticks")
    if faults:
        sys.exit("\n".join(faults))


def parts(module, pages):
    """Yields an entry of the search index for each section and member of a page."""
    main = re.search(r"<main.*?>(.*)</main>", pages[module.modulename], re.S)[1]
    chapter = ""
    for part in re.split(r'(?=<(?:section|div|h2|h3) id=")', main):
        start = r'<(\w+) id="(.*?)".*?>(?:([^\n]*)</h\d>|\s*<div class="attr.*?</div>)'
        found = re.match(start, part, re.S)
        tag, anchor, heading = found.groups() if found else ("", "", "")
        chapter = heading if tag == "h2" else chapter
        path = [module.title, chapter if tag == "h3" else "", heading or anchor]
        yield {
            "modulename": module.modulename,
            "kind": "module",
            "qualname": anchor,
            "fullname": " / ".join(filter(None, path)),
            "doc": part[found.end() :] if found else part,
        }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
