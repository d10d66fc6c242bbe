"""`p2pfl audit`: verify a history, derive a block again, prove a part to others, ask questions.

Knows words and files; what is checked and asked is in `p2pfl.audit`. Needs no torch, libp2p or web3; only
`fetch`, which brings a history from a running network, needs libp2p.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from p2pfl import genesis as genesis_file
from p2pfl.audit import proofs, queries, verify
from p2pfl.audit.history import fold_roster
from p2pfl.audit.view import FolderView
from p2pfl.cli import fetch
from p2pfl.durable import disk_error
from p2pfl.errors import EXIT_CLAIM_FAILED, EXIT_OK, UserError
from p2pfl.genesis import COUNCIL, Genesis


def add_parser(commands: Any) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "audit", help="question and verify a history: offline, trusting nobody", description=__doc__
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_verify(verbs)
    _add_show(verbs)
    _add_recompute(verbs)
    _add_prove(verbs)
    _add_check(verbs)
    fetch.add_verb(verbs)


def _history_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("dir", type=Path, metavar="DIR", help="a node's folder, or the run folder of a testnet")
    verb.add_argument(
        "--genesis",
        type=Path,
        metavar="FILE",
        help="your own copy (default: the one in DIR, which proves less)",
    )


def _add_verify(verbs: Any) -> None:
    verb = verbs.add_parser(
        "verify",
        help="check a whole history against the genesis file",
        description="Check a whole history against the genesis file. Exit code 1 if anything is found.",
    )
    _history_arguments(verb)
    verb.add_argument("--recompute", action="store_true", help="derive every block again from the blobs too")
    verb.add_argument(
        "--json", action="store_true", help="one JSON object: ok, blocks, certificates, findings"
    )
    verb.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    report = verify.verify(arguments.dir, recompute=arguments.recompute, genesis=_given(arguments.genesis))
    print(json.dumps(report.to_json()) if arguments.json else report.render())
    return EXIT_OK if report.ok else EXIT_CLAIM_FAILED


def _add_show(verbs: Any) -> None:
    listed = "\n".join(f"  {_usage(each):<24} {each.asks}" for each in queries.QUESTIONS.values())
    verb = verbs.add_parser(
        "show",
        help="ask a question of a history",
        description="Ask a question. It shows what the blocks say; whether they are true says `verify`.",
        epilog=f"questions:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _history_arguments(verb)
    verb.add_argument("question", choices=sorted(queries.QUESTIONS), metavar="QUESTION", help="see below")
    verb.add_argument("values", nargs="*", metavar="NAME=VALUE", help="what the question needs to know")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON list of objects")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a head line")
    verb.set_defaults(run=_show)


def _usage(question: queries.Question) -> str:
    return " ".join([question.name, *(f"{each.name}=..." for each in question.parameters)])


def _show(arguments: argparse.Namespace) -> int:
    given: dict[str, str] = {}
    for word in arguments.values:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(
                f"{word} names no value",
                because="there is no = in it",
                fix=f"write {_usage(queries.QUESTIONS[arguments.question])}",
            )
        given[name] = value
    view = FolderView(arguments.dir, _given(arguments.genesis))
    answer = queries.ask(view.index(), view.genesis, arguments.question, given)
    if arguments.json:
        print(json.dumps(answer.to_json()))
    elif arguments.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([answer.columns, *answer.rows])
    else:
        _print_table(answer)
    return EXIT_OK


def _print_table(answer: queries.Answer) -> None:
    """Columns as wide as their widest word; ids are long, so they come last in every question."""
    rows = [answer.columns, *([_word(value) for value in row] for row in answer.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(answer.columns))]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    if not answer.rows:
        print("(nothing)")


def _word(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if text.isprintable() else json.dumps(text)


def _add_recompute(verbs: Any) -> None:
    verb = verbs.add_parser(
        "recompute",
        help="derive one block again from the blobs, field by field",
        description="Derive one block again from the blobs. Exit code 1 if a field comes out differently.",
    )
    _history_arguments(verb)
    verb.add_argument("chain", help="a group's name, or council")
    verb.add_argument("height", type=int)
    verb.add_argument("--json", action="store_true", help="one JSON object: ok, fields, findings")
    verb.set_defaults(run=_recompute)


def _recompute(arguments: argparse.Namespace) -> int:
    again, report = verify.recompute_block(
        arguments.dir, arguments.chain, arguments.height, genesis=_given(arguments.genesis)
    )
    ok = again.ok and report.ok
    if arguments.json:
        told = {"ok": ok, "chain": again.chain, "height": again.height, "fields": again.fields}
        print(json.dumps({**told, "findings": report.to_json()["findings"]}))
    else:
        for name, same in again.fields.items():
            print(f"{name:<16} {'the same' if same else 'DIFFERENT'}")
        for each in report.findings:
            print(f"FOUND {each.render()}")
    return EXIT_OK if ok else EXIT_CLAIM_FAILED


def _add_prove(verbs: Any) -> None:
    verb = verbs.add_parser(
        "prove",
        help="write a proof that others can check with the genesis file alone",
        description="Write a proof of a block, of one field of a block, or that one history extends another.",
    )
    kinds = verb.add_subparsers(title="what", metavar="WHAT", required=True)
    for kind, help_, last in (
        ("block", "that a block lies under a later certified header", "--head"),
        ("field", "what one field of a block says", "field"),
        ("consistency", "that a later history extends an earlier one", "newer"),
    ):
        each = kinds.add_parser(kind, help=help_)
        _history_arguments(each)
        each.add_argument("chain", help="a group's name, or council")
        each.add_argument("height", type=int)
        if last == "field":
            each.add_argument(last, help="such as weights, gram, filters, cases")
        else:
            each.add_argument(last, type=int, help="height of the later header")
        each.add_argument("--out", type=Path, metavar="FILE", help="write it there (default: stdout)")
        each.set_defaults(run=_prove, kind=kind)


def _prove(arguments: argparse.Namespace) -> int:
    view = FolderView(arguments.dir, _given(arguments.genesis))
    chains = view.chains()
    if arguments.chain not in chains:
        raise UserError(
            f"there is no chain {arguments.chain} in {arguments.dir}",
            because=f"it holds {', '.join(chains)}",
            fix="name one of these, or another folder",
        )
    roster = fold_roster(view.genesis, chains.get(COUNCIL))
    where = (roster, arguments.chain, chains[arguments.chain], arguments.height)
    if arguments.kind == "block":
        text = proofs.prove_block(*where, arguments.head)
    elif arguments.kind == "field":
        text = proofs.prove_field(*where, arguments.field)
    else:
        text = proofs.prove_consistency(*where, arguments.newer)
    _write(text, arguments.out)
    return EXIT_OK


def _add_check(verbs: Any) -> None:
    verb = verbs.add_parser(
        "check",
        help="check a proof that somebody gave you",
        description="Check a proof against the genesis file. Exit code 1 if it proves nothing.",
    )
    verb.add_argument("proof", type=Path, metavar="FILE", help="what `p2pfl audit prove` wrote")
    verb.add_argument("--genesis", type=Path, metavar="FILE", required=True, help="from somebody you trust")
    verb.add_argument("--json", action="store_true", help="one JSON object: ok, statement, value")
    verb.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    genesis = genesis_file.load(arguments.genesis)
    try:
        with arguments.proof.open(encoding="utf-8") as file:
            text = file.read(proofs.PROOF_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the proof {arguments.proof} cannot be read", because=str(error), fix="name another file"
        ) from error
    try:
        proven = proofs.check(text, genesis)
    except proofs.BadProof as error:
        print(
            json.dumps({"ok": False, "because": str(error)}) if arguments.json else f"PROVES NOTHING: {error}"
        )
        return EXIT_CLAIM_FAILED
    if arguments.json:
        print(json.dumps({"ok": True, "statement": proven.statement, "value": proven.value}))
    else:
        print(f"proved: {proven.statement}")
        if proven.value is not None:
            print(json.dumps(proven.value, indent=1))
    return EXIT_OK


def _given(path: Path | None) -> Genesis | None:
    return None if path is None else genesis_file.load(path)


def _write(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from error
    print(f"written to {path}")
