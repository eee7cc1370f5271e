"""Make the frozen corpus: ``python conformance/make_vectors.py [FOLDER]``, by default ``conformance/vectors``."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from ternfmt_conformance.making.build import write_corpus  # noqa: E402


def main() -> None:
    """Write the corpus, in place of what is there."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "vectors"
    if root.exists():
        if not (root / "manifest.json").is_file():
            sys.exit(f"{root} is not a corpus: it has no manifest.json; nothing was written")
        shutil.rmtree(root)
    corpus = write_corpus(root)
    levels = Counter(case["level"] for case in corpus.cases)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"{len(corpus.cases)} cases, {len(corpus.files)} files, {size} bytes in {root}")
    print(dict(sorted(levels.items())))


if __name__ == "__main__":
    main()
