"""The FAQ reference - TF-IDF of question pairs and LightGBM - and convoy on the same split, in one run.

    python3 benches/compare/faq.py [--questions Q.tsv --train T.tsv --test U.tsv] [--trees 8000] [--no-reference]
                                      [--embeddings FOLDER [--precision f32 int8]]

The reference scores a question against every original: the TF-IDF vectors of both texts side by side go through gradient
boosted trees, as Microsoft's "MLAKSDeployAML" tutorial trains them (one match and 20 non-matches a text, match pairs weighed
up, 8000 trees, at least 10 samples a leaf). It is installed from pip into target/compare-faq. convoy is built in release
mode unless --convoy names a binary. Both are trained on the duplicates of --train and the originals, and judged on --test;
times are of one thread. Without arguments it takes the FAQ that comes with convoy.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
VENV = os.path.join(ROOT, "target", "compare-faq")
PACKAGES = ["numpy", "scipy", "scikit-learn", "lightgbm"]


def arguments():
    own = os.path.join(ROOT, "weights", "faq")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default=os.path.join(own, "questions.tsv"))
    parser.add_argument("--train", default=os.path.join(own, "duplicates.tsv"))
    parser.add_argument("--test", default=os.path.join(own, "heldout.tsv"))
    parser.add_argument("--trees", type=int, default=8000)
    parser.add_argument("--negatives", type=int, default=20)
    parser.add_argument("--limit", type=int, help="judge the reference on the first so many test questions only")
    parser.add_argument("--no-reference", action="store_true", help="leave the reference out")
    parser.add_argument("--embeddings", help="folder of the embedding model: adds a row for convoy with it")
    parser.add_argument(
        "--precision", nargs="+", default=["int8"], help="how the embedding model computes, a row for each"
    )
    parser.add_argument("--convoy", help="the binary; built when not given")
    parser.add_argument("--reference-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [(int(row["AnswerId"]), row["Text"]) for row in csv.DictReader(file, delimiter="\t")]


def reference(args):
    """Trains and judges the reference; runs inside its own environment."""
    import lightgbm
    import numpy as np
    from scipy.sparse import hstack, vstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    originals, train, test = rows(args.questions), rows(args.train), rows(args.test)
    if args.limit:
        test = test[:: max(1, len(test) // args.limit)][: args.limit]
    answer_ids = np.array([answer_id for answer_id, _ in originals])
    started = time.perf_counter()
    random = np.random.RandomState(1)
    asked, against, match = [], [], []
    for answer_id, text in train + originals:
        own = np.flatnonzero(answer_ids == answer_id)[0]
        others = random.choice(np.flatnonzero(answer_ids != answer_id), min(args.negatives, len(originals) - 1), False)
        for original in [own, *others]:
            asked.append(text)
            against.append(originals[original][1])
            match.append(int(original == own))
    left, right = TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(ngram_range=(1, 2))
    pairs = hstack([left.fit_transform(asked), right.fit_transform(against)]).tocsr()
    weight = np.where(np.array(match) == 1, len(match) / sum(match) - 1, 1.0)
    model = lightgbm.LGBMClassifier(n_estimators=args.trees, min_child_samples=10, verbose=-1)
    model.fit(pairs, match, sample_weight=weight)
    trained = time.perf_counter() - started
    candidates = right.transform([text for _, text in originals])
    ranks, times = [], []
    for answer_id, text in test:
        started = time.perf_counter()
        question = left.transform([text])
        scores = model.predict_proba(
            hstack([vstack([question] * len(originals)), candidates]).tocsr(), num_threads=1
        )[:, 1]
        times.append(time.perf_counter() - started)
        ranks.append(int((scores > scores[answer_ids == answer_id][0]).sum()) + 1)
    ranks = np.array(ranks)
    result = {
        "acc1": float((ranks == 1).mean()), "acc3": float((ranks <= 3).mean()), "acc10": float((ranks <= 10).mean()),
        "rank": float(ranks.mean()), "ms": float(np.median(times) * 1000), "train": trained, "questions": len(ranks),
    }  # fmt: skip
    print(json.dumps(result))


def run_reference(args):
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(python):
        venv.create(VENV, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    command = [python, os.path.abspath(__file__), *sys.argv[1:], "--reference-only"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_convoy(convoy, args, precision):
    extra = ["--embeddings", args.embeddings] if precision else []
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "faq.safetensors")
        files = ["--questions", args.questions, "--duplicates"]
        started = time.perf_counter()
        train = [convoy, "faq", "train", *files, args.train, "--out", model, *extra]
        train += ["--precision", precision] if precision else []
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        trained = time.perf_counter() - started
        evaluate = [convoy, "faq", "eval", "--model", model, *files, args.test, *extra]
        report = subprocess.run(evaluate, check=True, stdout=subprocess.PIPE, text=True).stdout
    questions, *figures = re.search(r"^all +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", report, re.M).groups()
    acc1, acc3, acc10, rank = map(float, figures)
    ms = float(re.search(r"p50 ([\d.]+) us", report).group(1)) / 1000
    one, queue = re.search(r"(\d+) questions/s one at a time, (\d+) from a long queue", report).groups()
    return {
        "acc1": acc1, "acc3": acc3, "acc10": acc10, "rank": rank, "ms": ms, "train": trained, "questions": questions,
        "one": one, "queue": queue,
    }  # fmt: skip


def build():
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "convoy")


def main():
    args = arguments()
    if args.reference_only:
        return reference(args)
    convoy = args.convoy or build()
    results = [("convoy", run_convoy(convoy, args, None))]
    for precision in args.precision if args.embeddings else []:
        results.append((f"convoy, embeddings {precision}", run_convoy(convoy, args, precision)))
    if not args.no_reference:
        results.append((f"reference, {args.trees} trees", run_reference(args)))
    print(
        f"{'':<24}{'questions':>10}{'acc@1':>8}{'acc@3':>8}{'acc@10':>8}{'rank':>8}{'ms p50':>10}"
        f"{'1 a time/s':>11}{'queue/s':>9}{'train s':>9}"
    )
    for name, r in results:
        print(
            f"{name:<24}{r['questions']:>10}{r['acc1']:>8.4f}{r['acc3']:>8.3f}{r['acc10']:>8.3f}"
            f"{r['rank']:>8.3f}{r['ms']:>10.3f}{r.get('one', ''):>11}{r.get('queue', ''):>9}{r['train']:>9.1f}"
        )


if __name__ == "__main__":
    main()
