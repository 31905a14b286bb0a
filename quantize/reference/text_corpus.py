#!/usr/bin/env python3
"""Makes the training text of the small text model out of documentation in Debian packages.

    text_corpus.py --work DIR --out DIR [--jobs 2] [--packages NAME ...]

Steps, each skipped when its result is already in --work:
  1. `apt-get download` of every package, `dpkg-deb` to unpack the documents (nothing is installed);
  2. prose out of HTML, man pages, POD, Info, Mallard pages and dictionaries: whole paragraphs of English, no listings;
  3. exact-duplicate paragraphs dropped, documents split into training and held-out text;
  4. a byte-level BPE tokenizer trained on a part of the training text.

Written to --out: train.txt.xz (documents separated by one 0x00 byte), heldout.txt, calibration.txt, tokenizer.json and
tokenizer_config.json. The licences of the documents are mixed, so the text is never committed: this script is the recipe.
Needs: lxml, tokenizers, and apt on a Debian 12 system (other releases have other package versions and names).
"""
import argparse
import gzip
import hashlib
import html
import json
import lzma
import multiprocessing
import os
import random
import re
import subprocess
import sys
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"

# Package -> what to read in it. Only documentation about computers, in running prose: a small model has no room for
# scripture, quotations or politics as well, however good their English is.
HTML = """linux-doc-6.1 python3.11-doc postgresql-doc-15 git-doc rust-doc debian-handbook racket-doc sqlite3-doc
libreoffice-help-en-us python-django-doc python-sqlalchemy-doc erlang-doc openjdk-17-doc llvm-14-doc debian-policy
debian-reference-en developers-reference maint-guide harden-doc debian-faq apt-doc aptitude-doc-en bash-doc autoconf-doc
exim4-doc-html postfix-doc apache2-doc cmake-doc ganeti-doc ghc-doc sbcl-doc r-doc-html octave-doc lilypond-doc-html
gimp-help-en installation-guide-amd64 libboost1.74-doc qtbase5-doc-html libglib2.0-doc libgtk-3-doc zsh-doc
fish-common nodejs-doc mutt sphinx-doc docutils-doc bind9-doc twisted-doc python-flask-doc python-celery-doc
python-tornado-doc python-jinja2-doc python-requests-doc python-mpmath-doc python-sklearn-doc python-scipy-doc
python-pandas-doc gap-doc swi-prolog-doc wireshark-doc nova-doc neutron-doc swift-doc ironic-doc keystone-doc cinder-doc
glance-doc heat-doc fai-doc live-manual-html libvirt-doc borgbackup-doc cargo-doc postgis-doc nim-doc kicad-doc-en
gnu-standards pike8.0-doc xorg-docs xen-doc gnucash-docs chezscheme-doc mit-scheme-doc maxima-doc grass-doc gnuplot-doc
qtdeclarative5-doc-html qttools5-doc-html qtmultimedia5-doc-html qtwebengine5-doc-html qtcreator-doc
qtquickcontrols2-5-doc-html libgtk-4-doc imagemagick-6-doc libstdc++-12-doc swig-doc python-skimage-doc python-sympy-doc
manila-doc octavia-doc designate-doc barbican-doc trove-doc libpango1.0-doc valgrind mailman3-doc ncurses-doc
libxml2-doc""".split()
KINDS = {name: ("html",) for name in HTML}
KINDS.update({name: ("man",) for name in """manpages manpages-dev systemd tcl8.6-doc mercurial-common lvm2 cryptsetup
xfsprogs btrfs-progs coreutils glibc-doc tk8.6-doc libssl-doc libcurl4-doc util-linux procps nfs-common iptables sudo rsync
curl tmux apt gnupg gpg mdadm openssl openssh-client dpkg-dev debhelper devscripts lintian subversion""".split()})
KINDS.update({"perl-doc": ("pod",), "guile-3.0-doc": ("info",), "binutils-doc": ("info",), "jargon-text": ("text",),
              "gnome-user-docs": ("page",), "gnome-devel-docs": ("page",), "gnumeric-doc": ("page",), "dict-foldoc": ("dict",)})

# Pages that hold indexes, source listings, translations or generated interface lists.
EXCLUDE = re.compile(
    r"genindex|py-modindex|searchindex|/search\.html|index-all|/_modules/|/_sources/|/src/|doc-index|/translations/"
    r"|(?<![a-z])(changelog|news|copyright)[^/]*$|whatsnew/v0|allclasses|package-(use|tree)|class-use|/hierarchy"
    r"|/rust-doc/html/(core|alloc|test|proc_macro)/|/rust-doc/html/std/(arch|simd)|/libraries/"
    r"|[._-](ca|cs|da|de|el|es|fi|fr|hu|it|ja|ko|nl|no|pl|pt|pt_BR|ru|sv|tr|vi|zh|zh_CN|zh_TW|id|ar|fa|hr|nb|ro|uk)"
    r"(-[A-Z]+)?\.x?html?(/[^/]*)?$|manual/(da|de|es|fr|ja|ko|pt-br|tr|zh-cn|ru)/"
    r"|\.html\.(da|de|es|fr|ja|ko|pt|tr|zh|ru)", re.I)
BY_NAME = {
    "html": re.compile(r"\.(x?html?|html\.en)(\.gz)?$"), "man": re.compile(r"/man/man[1-8]/.*\.gz$"),
    "pod": re.compile(r"\.pod$"),
    "info": re.compile(r"\.info(-\d+)?\.gz$"), "text": re.compile(r"(\.txt|jargon)[^/]*(\.gz)?$"),
    "page": re.compile(r"/help/C/.*\.page$"), "dict": re.compile(r"\.dict\.dz$"),
}

# ---------------------------------------------------------------------------------------------------------------------
# Readers. Each yields (kind, text), kind "p" for a paragraph, "li" for a list item, "h" for a heading or a term.

BLOCK = set("""p div section article main blockquote li dd dt h1 h2 h3 h4 h5 h6 td th tr table ul ol dl body caption figcaption
figure address center br hr title item page note steps list terms tbody details summary""".split())
SKIP = set("""script style pre nav footer head form svg math button select iframe textarea noscript listing code-block screen
links info media math desc_signature colgroup""".split())
SKIP_CLASS = re.compile(
    r"(?<!with)sidebar|related|headerlink|\btoc|navigation|(?<!wy-)(?<!for-)nav|footer|breadcrumb|highlight"
    r"|literal-block|programlisting|\bscreen\b|synopsis"
    r"|\bindex\b|copyright|versionset|navset|\bcode\b|signature|\bbook-info|doc-src|example-code")


def read_html(data, xml=False):
    from lxml import etree
    parser = etree.XMLParser(recover=True, huge_tree=True, resolve_entities=False, no_network=True) if xml else \
        etree.HTMLParser(recover=True, huge_tree=True, encoding="utf-8", no_network=True, remove_comments=True)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return
    if root is None:
        return
    buffer, kind = [], "p"
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, node in walker:
        tag = node.tag
        if not isinstance(tag, str):                       # comments and processing instructions: only their tail is text
            if event == "end" and node.tail:
                buffer.append(node.tail)
            continue
        tag = tag.rpartition("}")[2].lower()
        block = tag in BLOCK
        if block and buffer:
            yield kind, "".join(buffer)
            buffer = []
        if event == "start":
            if block:
                kind = "h" if tag in ("h1", "h2", "h3", "h4", "h5", "h6", "dt", "title", "th") else \
                    "li" if tag in ("li", "td", "item") else "p"
            # classes decide for blocks and for the anchors beside headings; `code` inside a sentence stays
            if tag in SKIP or (block or tag == "a") and SKIP_CLASS.search(node.get("class") or ""):
                walker.skip_subtree()
            elif node.text:
                buffer.append(node.text)
        else:
            if block:
                kind = "p"
            if node.tail:
                buffer.append(node.tail)
    yield kind, "".join(buffer)


ROFF = [(re.compile(p), r) for p, r in [
    (r'\\".*$', ""), (r"\\f(\[[^]]*\]|\(..|.)", ""), (r"\\s[-+]?\d", ""), (r"\\\*?\((lq|rq|dq)", '"'), (r"\\\((aq|cq|oq)", "'"),
    (r"\\\(em|\\\[em\]", " - "), (r"\\\(en", "-"), (r"\\\(bu", ""), (r"\\\[?(lq|rq|dq)\]", '"'), (r"\\\[(aq|cq|oq)\]", "'"),
    (r"\\m\[[^]]*\]|\\[HVZ]'[^']*'|\\(\*|\()..|\\\*?\[[^]]*\]", ""),
    (r"\\-", "-"), (r"\\e", r"\\"), (r"\\[ ~0]", " "), (r"\\[&|^/,c:%]", "")]]


def roff_inline(line):
    for pattern, replacement in ROFF:
        line = pattern.sub(replacement, line)
    return line


def read_man(data):
    buffer, kind, verbatim, term = [], "p", False, False
    for line in data.decode("utf-8", "replace").splitlines():
        if line[:1] in ".'":
            macro, _, rest = line[1:].strip().partition(" ")
            if macro in ("nf", "EX", "TS"):
                verbatim = True
            elif macro in ("fi", "EE", "TE"):
                verbatim = False
            if macro in ("SH", "SS", "PP", "P", "LP", "TP", "IP", "HP", "br", "sp", "RS", "RE", "nf", "EX", "TS", "in", "ti"):
                yield kind, " ".join(buffer)
                buffer, kind, term = [], "p", macro == "TP"
                if macro in ("SH", "SS"):
                    yield "h", roff_inline(rest).strip('" ').capitalize()
            elif macro in ("B", "I", "SM", "BR", "RB", "IR", "RI", "BI", "IB") and not verbatim:
                words = [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', roff_inline(rest))]
                buffer.append(("" if len(macro) == 2 and macro != "SM" else " ").join(words))
        elif not verbatim:
            buffer.append(roff_inline(line))
        if term and buffer:                                  # the line after .TP names the item that follows
            yield "h", " ".join(buffer)
            buffer, term = [], False
    yield kind, " ".join(buffer)


def read_pod(data):
    for block in re.split(r"\n\s*\n", data.decode("utf-8", "replace")):
        head = re.match(r"=(head\d|item)\s+(.*)", block, re.S)
        if head:
            block = head.group(2)
        elif block[:1] in "= \t":                            # other directives, and verbatim listings
            continue
        block = re.sub(r"[BICFSL]<<+ (.*?) >>+", r"\1", block, flags=re.S)
        block = block.replace("E<lt>", "&lt;").replace("E<gt>", "&gt;")
        for _ in range(3):                                   # codes nest: innermost first
            block = re.sub(r"[XZ]<[^<>]*>", "", block)
            block = re.sub(r"L<(?:([^|<>]*)\|)?([^<>]*)>", lambda m: m.group(1) or m.group(2), block)
            block = re.sub(r"[BICFSE]<([^<>]*)>", r"\1", block)
        yield ("h" if head else "p"), html.unescape(block)


def read_text(data):
    for block in re.split(r"\n\s*\n|\x1f", data.decode("utf-8", "replace")):
        if "Node:" in block or re.search(r"^\*.*::|^\s*[*=~.-]{4,}\s*$|\.\.\.\.", block, re.M):
            continue                                         # Info node lines, menus, underlines and dotted contents
        yield "p", block


def read_dict(data):
    for line in re.sub(r"\n[ \t]+(?=\S)", " ", data.decode("utf-8", "replace")).split("\n"):
        line = re.sub(r"[{}]", "", line)
        line = re.sub(r"^(\S[^<]{0,60}?)\s+<[^>]*>", r"\1: ", line)
        line = re.sub(r"\(\d{4}-\d\d-\d\d\)", "", line)
        yield "p", line


READERS = {"html": read_html, "man": read_man, "pod": read_pod, "info": read_text, "text": read_text, "dict": read_dict,
           "page": lambda data: read_html(data, xml=True)}

# ---------------------------------------------------------------------------------------------------------------------
# From blocks to prose

ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": " - ",
                       "\u2026": "...", "\u00a0": " ", "\u2022": "", "\u00b7": "", "\u00b6": "",
                       "\u2192": "->", "\u2212": "-", "\u00d7": "x",
                       "\u201a": "'", "\u2039": "<", "\u203a": ">", "\u2010": "-", "\u2011": "-", "\u00ad": "", "\u200b": "",
                       "\uf0c1": "", "\u00ab": '"', "\u00bb": '"', "\u2713": "", "\u00a9": "(c)", "\u00e9": "e", "\u00ef": "i"})
FUNCTION_WORDS = frozenset("""the of to and a in is for that be it this with are as on not or by from can if you an will which
has have was at when but all any its your may only other one use used must there no than then these they into also such do
does each more should so their we what how""".split())
TEMPLATE = re.compile(r"Definition at line|Referenced by|All Implemented|Direct Known|Total running time|References ")
WORD = re.compile(r"[A-Za-z']+")
SPACE_BEFORE_MARK = re.compile(r" ([.,;:!?)])(?=\s|$)")


def tidy(text):
    text = " ".join(text.translate(ASCII).split())
    text = re.sub(r"\[(edit|source|src|\d+)\]", "", text)
    return SPACE_BEFORE_MARK.sub(r"\1", text).strip(" *#")


def is_prose(text, item):
    """English sentences rather than listings, signatures, tables or another language."""
    if not (24 if item else 40) <= len(text) <= 6000 or not text.isascii() or TEMPLATE.match(text):
        return False
    if not (text[0].isupper() or text[0] in "\"'(" or item and text[0].islower()):
        return False
    if not item and text[-1] not in ".!?:)\"'":
        return False
    words = WORD.findall(text)
    if len(words) < (4 if item else 7):
        return False
    solid = len(text) - text.count(" ")
    letters = sum(map(len, words))
    functional = sum(w.lower() in FUNCTION_WORDS for w in words)
    return letters > 0.8 * solid and functional > 0.22 * len(words) and max(map(len, text.split())) < 60


def is_heading(text):
    words = text.split()
    return 1 <= len(words) <= 9 and text[0].isupper() and text.isascii() and len(text) < 70 and \
        sum(c.isalpha() for c in text) > 0.85 * sum(not c.isspace() for c in text) and "_" not in text


def extract(job):
    """One file -> (name, [paragraph, ...]); a heading stays only before a paragraph that stays."""
    path, kind, name = job
    try:
        data = Path(path).read_bytes()
        if path.endswith((".gz", ".dz")):
            data = gzip.decompress(data)
    except (OSError, EOFError):
        return name, []
    if len(data) > 6_000_000 and kind != "dict":
        return name, []
    out, heading = [], None
    try:
        for block, text in READERS[kind](data):
            text = tidy(text)
            if not text:
                continue
            if block == "h":
                heading = text if is_heading(text) else None
            elif is_prose(text, block == "li"):
                if heading:
                    out.append(("h", heading))
                out.append((block, text))
                heading = None
    except RecursionError:
        pass
    return name, out


# ---------------------------------------------------------------------------------------------------------------------
# Steps

def download(names, work):
    debs = work / "deb"
    debs.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not list(debs.glob(f"{name}_*.deb")) and subprocess.run(["apt-get", "download", name], cwd=debs).returncode:
            print(f"not available: {name}", file=sys.stderr)
    for deb in sorted(debs.glob("*.deb")):
        target = work / "x" / deb.name.split("_")[0]
        if not target.exists():
            target.mkdir(parents=True)
            wanted = "*.html *.htm *.xhtml *.gz *.pod *.page *.txt *.dz *.en".split()
            tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
            # tar reports patterns that match nothing as an error: expected here
            subprocess.run(["tar", "-x", "-C", target, "--wildcards", "--no-anchored", *wanted], stdin=tar.stdout,
                           stderr=subprocess.DEVNULL)
            tar.wait()


def collect(names, work, jobs):
    todo = []
    for name in names:
        root = work / "x" / name
        for path in sorted(root.rglob("*")):
            text = str(path)
            if EXCLUDE.search(text[len(str(root)):]) or path.is_symlink() or not path.is_file():
                continue
            for kind in KINDS.get(name, ("html",)):
                if BY_NAME[kind].search(text):
                    todo.append((text, kind, f"{name}{text[len(str(root)):]}"))
                    break
    random.Random(0).shuffle(todo)                           # spreads the large packages over the workers
    print(f"{len(todo)} files to read")
    documents = {}
    with multiprocessing.Pool(jobs) as pool:
        for i, (name, paragraphs) in enumerate(pool.imap_unordered(extract, todo, chunksize=32)):
            if paragraphs:
                documents[name] = paragraphs
            if i % 20000 == 0:
                print(f"  {i} read", flush=True)
    # A dictionary is one file of thousands of entries: cut it into documents of a few pages.
    for name in [n for n in documents if ".dict." in n]:
        entries = documents.pop(name)
        documents.update({f"{name}#{i}": entries[i:i + 40] for i in range(0, len(entries), 40)})
    return documents


def join(paragraphs):
    """Blank line between paragraphs; list items that follow one another stay on neighbouring lines."""
    parts = []
    for i, (kind, text) in enumerate(paragraphs):
        if kind == "li":
            text = "- " + text
        parts.append(("\n" if kind == "li" and i and paragraphs[i - 1][0] == "li" else "\n\n" if i else "") + text)
    return "".join(parts)


def split(documents, heldout_bytes, minimum):
    """Held-out documents first, so that a paragraph in both places is dropped from the training text."""
    def order(name):
        return hashlib.sha256(name.encode()).digest()
    size = {n: sum(len(t) + 2 for _, t in p) for n, p in documents.items()}
    names = sorted((n for n in documents if size[n] >= minimum), key=order)
    held, used = [], 0
    for name in names:
        if used < heldout_bytes and 1500 <= size[name] <= 40000:
            held.append(name)
            used += size[name]
    held_set = set(held)
    seen, texts = set(), {}
    for name in held + [n for n in names if n not in held_set]:
        kept = []
        for kind, text in documents[name]:
            key = hashlib.blake2b(text.encode(), digest_size=8).digest()
            if kind == "h" or key not in seen:
                seen.add(key)
                kept.append((kind, text))
        # a heading whose paragraphs were all duplicates goes too
        kept = [k for i, k in enumerate(kept) if k[0] != "h" or (i + 1 < len(kept) and kept[i + 1][0] != "h")]
        if sum(len(t) for _, t in kept) >= minimum:
            texts[name] = join(kept)
    return [texts[n] for n in held if n in texts], {n: t for n, t in texts.items() if n not in held_set}


def train_tokenizer(texts, vocab, out):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False))
    # The tokenizer travels inside the model file: no white space, characters rather than \u escapes.
    content = json.loads(tokenizer.to_str())
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT, "pad_token": END_OF_TEXT, "model_max_length": 131072, "add_bos_token": False},
        separators=(",", ":")))
    print(f"tokenizer.json: {len(text.encode())} bytes, {tokenizer.get_vocab_size()} tokens")
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and unpacked documents (about 5 GB)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the text and the tokenizer")
    parser.add_argument("--packages", nargs="*", default=sorted(KINDS), help="Debian packages to read (default: all listed here)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="worker processes")
    parser.add_argument("--vocab", type=int, default=4096, help="entries of the tokenizer")
    parser.add_argument("--heldout", type=int, default=500_000, help="bytes of held-out text")
    parser.add_argument("--calibration", type=int, default=1_500_000,
                        help="bytes of calibration text (part of the training text)")
    parser.add_argument("--minimum", type=int, default=400, help="shortest document kept, in bytes")
    parser.add_argument("--sample", type=int, default=30_000_000, help="bytes of training text the tokenizer is trained on")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    download(args.packages, args.work)
    documents = collect(args.packages, args.work, args.jobs)
    held, train = split(documents, args.heldout, args.minimum)
    sizes = {}
    for name, text in train.items():
        package = name.split("/")[0]
        sizes[package] = sizes.get(package, 0) + len(text)
    for package, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"  {size / 1e6:7.2f} MB  {package}")
    texts = [train[name] for name in sorted(train)]
    random.Random(1).shuffle(texts)
    print(f"training text: {sum(map(len, texts)) / 1e6:.1f} MB in {len(texts)} documents; held out: {len(held)} documents")

    def write(path, parts):
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    write(args.out / "heldout.txt", held)
    calibration, used = [], 0
    for text in texts:
        if used < args.calibration and len(text) < 40000:
            calibration.append(text)
            used += len(text)
    write(args.out / "calibration.txt", calibration)
    sample, used = [], 0
    for text in texts:
        if used >= args.sample:
            break
        sample.append(text)
        used += len(text)
    tokenizer = train_tokenizer(sample, args.vocab, args.out)
    probe = "\n\n".join(held)
    print(f"held-out text: {len(probe)} bytes, {len(probe) / len(tokenizer.encode(probe).ids):.3f} bytes a token")
    with lzma.open(args.out / "train.txt.xz", "wb", preset=9 | lzma.PRESET_EXTREME) as file:
        file.write("\0".join(texts).encode())
    print(f"train.txt.xz: {(args.out / 'train.txt.xz').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
