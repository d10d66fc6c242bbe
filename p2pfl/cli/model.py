"""`p2pfl model export | import | evaluate`: models out of a network, into one, and tried on data.

Checkpoints need no command: every base that the council decided is kept in the node's folder under its id
(`store.keep_blobs_epochs` says for how long), and `export` finds it there. Knows words and files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from p2pfl import genesis as genesis_file
from p2pfl.audit import history
from p2pfl.audit.history import Blobs, MissingBlob
from p2pfl.audit.report import Report
from p2pfl.errors import EXIT_OK, PeerFault, UserError
from p2pfl.genesis import COUNCIL, Genesis, Task
from p2pfl.params import Base, blob_id

# Blocks whose base is looked for before it is said that none is there: a node keeps the newest ones.
_SEARCHED_MAX = 1_000


def add_parser(commands: Any) -> None:
    """Add the command and its verbs."""
    words = "bring models out of a network and into one, and try them on data"
    parser = commands.add_parser("model", help=words, description=__doc__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    export = verbs.add_parser(
        "export",
        help="write the newest base of a node's folder as safetensors",
        description="Write a base that the council decided, by default the newest, as a safetensors file.",
    )
    export.add_argument("dir", type=Path, metavar="DIR", help="a node's folder, or a testnet's run folder")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    export.add_argument(
        "--genesis", type=Path, metavar="FILE", help="your own copy (default: the one in DIR)"
    )
    which = export.add_mutually_exclusive_group()
    which.add_argument("--block", type=int, metavar="H", help="the base of this block of the council")
    which.add_argument("--blob", metavar="ID", help="the base of this id, 64 hex digits")
    export.set_defaults(run=_export)
    bring = verbs.add_parser(
        "import",
        help="make an initial base of a safetensors file",
        description="Write the file that a network starts from, and print its id for the genesis.",
    )
    bring.add_argument("file", type=Path, metavar="FILE", help="a safetensors file with the model's tensors")
    bring.add_argument(
        "--out", type=Path, default=Path("initial.base"), metavar="FILE", help="(initial.base)"
    )
    _add_task(bring)
    bring.set_defaults(run=_import)
    evaluate = verbs.add_parser(
        "evaluate",
        help="loss and accuracy of a model file on data",
        description="Loss and accuracy on the public test set, or on samples of your own.",
    )
    evaluate.add_argument("file", type=Path, metavar="FILE", help="a safetensors file, or a base")
    _add_task(evaluate)
    evaluate.add_argument("--data", type=Path, metavar="FILE", help="own samples: .npz, .csv or .parquet")
    evaluate.add_argument(
        "--label", default="label", metavar="COLUMN", help="of the labels in a table (label)"
    )
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (cpu)")
    evaluate.set_defaults(run=_evaluate)
    for each in (export, bring, evaluate):
        each.add_argument("--json", action="store_true", help="one JSON object")


def _add_task(parser: argparse.ArgumentParser) -> None:
    """What the model is of: a network's genesis, or names."""
    parser.add_argument(
        "--genesis", type=Path, metavar="FILE", help="take model and data set from this genesis"
    )
    parser.add_argument("--model", metavar="NAME", help="the model (default: what the file says)")
    parser.add_argument("--dataset", metavar="NAME", help="the data set; see `p2pfl testnet up --help`")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where it lies")


# ---------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
    from p2pfl.learn.model_files import write_safetensors

    given = None if arguments.genesis is None else genesis_file.load(arguments.genesis)
    genesis, chains, blobs = history.read(arguments.dir, Report(str(arguments.dir)), given)
    bodies = chains[COUNCIL].bodies if COUNCIL in chains else []
    base, found, block = _base(arguments, genesis, bodies, blobs)
    task = genesis.task
    notes = {"base_id": "0x" + found.hex(), "network_id": "0x" + genesis.network_id.hex()}
    if block is not None:
        notes["council_block"] = str(block)
    write_safetensors(arguments.out, base, _named(task), **notes)
    told = {"file": str(arguments.out), "model": task.model, "parameters": len(base.values), **notes}
    where = "" if block is None else f" of the council's block {block}" if block >= 0 else " of the genesis"
    _tell(arguments, told, f"{arguments.out}: {task.model}, the base {notes['base_id']}{where}")
    return EXIT_OK


def _base(
    arguments: argparse.Namespace, genesis: Genesis, bodies: list[Any], blobs: Blobs
) -> tuple[Base, bytes, int | None]:
    """The base that was asked for, its id, and the council block that decided it (-1: the genesis)."""
    if arguments.blob is not None:
        return _of_blob(_digest(arguments.blob), blobs), _digest(arguments.blob), None
    heights = [*range(len(bodies) - 1, -1, -1), -1][:_SEARCHED_MAX]
    if arguments.block is not None:
        if not 0 <= arguments.block < len(bodies):
            raise UserError(
                f"there is no council block {arguments.block} in {arguments.dir}",
                because=f"the newest is {len(bodies) - 1}",
                fix="name another block, or leave --block out",
            )
        heights = [arguments.block]
    for height in heights:
        if height >= 0 and bodies[height] is None:
            continue
        wanted = bodies[height].base_id if height >= 0 else genesis.initial_base_id
        try:
            return _of_blob(wanted, blobs), wanted, height
        except UserError:
            if arguments.block is not None:
                raise
    raise UserError(
        f"no base is kept in {arguments.dir}",
        because="none of the council's blocks there has its base beside it",
        fix="name the folder of a node that has taken part, or fetch one: p2pfl audit fetch",
    )


def _of_blob(wanted: Any, blobs: Blobs) -> Base:
    try:
        return blobs.base(wanted)
    except (MissingBlob, PeerFault) as error:
        raise UserError(
            f"the base 0x{wanted.hex()} is not here",
            because=str(error),
            fix="name a base that this node keeps, or the folder of a node that keeps everything",
        ) from error


def _digest(text: str) -> Any:
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise UserError(
            f"{text!r} is no id of a blob", because="an id is 64 hex digits", fix="see `p2pfl audit show`"
        )
    return found


# ---------------------------------------------------------------------------


def _import(arguments: argparse.Namespace) -> int:
    from p2pfl.learn.model_files import read_model, write_base

    task, _ = _task(arguments)
    base = read_model(arguments.file, task.layout)
    write_base(arguments.out, base)
    told = {
        "file": str(arguments.out),
        "model": task.model,
        "parameters": len(base.values),
        "initial_base_id": "0x" + blob_id(base.to_bytes()).hex(),
    }
    words = f"{arguments.out}: {task.model}, {len(base.values)} parameters, initial_base_id"
    _tell(arguments, told, f"{words} {told['initial_base_id']}")
    return EXIT_OK


def _evaluate(arguments: argparse.Namespace) -> int:
    from p2pfl.learn.model_files import read_model
    from p2pfl.learn.own_data import read_for_task
    from p2pfl.learn.train import evaluate

    task, whole = _task(arguments, wants_data=arguments.data is None)
    base = read_model(arguments.file, task.layout)
    if arguments.data is None:
        assert whole is not None
        x, y, what = whole.test_x, whole.test_y, f"the test part of {task.dataset}"
    else:
        x, y = read_for_task(arguments.data, task, arguments.label)
        what = str(arguments.data)
    shape, classes = task.input_shape, task.classes
    loss, accuracy = evaluate(task.model, shape, classes, base.values, x, y, arguments.device)
    told = {"model": task.model, "data": what, "samples": len(y), "loss": loss, "accuracy": accuracy}
    _tell(arguments, told, f"{what}, {len(y)} samples: loss {loss:.4f}, accuracy {accuracy:.4f}")
    return EXIT_OK


def _task(arguments: argparse.Namespace, *, wants_data: bool = False) -> tuple[Task, Any]:
    """What the model is of, by the genesis or by names; and the data set, where it was read for that."""
    from p2pfl.learn.datasets import load_dataset
    from p2pfl.learn.model_files import read_named
    from p2pfl.learn.models import layout

    if arguments.genesis is not None:
        task = genesis_file.load(arguments.genesis).task
        return task, load_dataset(task.dataset, arguments.data_dir) if wants_data else None
    named = read_named(arguments.file)
    model = arguments.model or (_known(arguments.file, named.model) if named else None)
    if model is None or (arguments.dataset is None and (wants_data or named is None)):
        raise UserError(
            f"what {arguments.file} is a model of is not known",
            because="neither a genesis nor model and data set were named, and the file does not say it all",
            fix="--genesis FILE, or --model cnn --dataset digits",
        )
    whole = None if arguments.dataset is None else load_dataset(arguments.dataset, arguments.data_dir)
    if whole is not None:
        shape, classes, names = whole.input_shape, whole.classes, whole.class_names
    else:
        assert named is not None
        shape, classes, names = named.input_shape, named.classes, named.class_names
    tensors = layout(model, shape, classes).tensors
    task = Task(
        model, arguments.dataset or "", shape, classes, tensors, 1, 1, 1, 0, 1, 0, 0, class_names=names
    )
    return task, whole


def _known(file: Path, model: str) -> str:
    """The model that a file names itself. Raises UserError for an address: no file chooses what code runs."""
    if ":" in model:
        raise UserError(
            f"{file} says that it is a model of {model!r}",
            because="that is code outside this program, and a file may come from anybody",
            fix=f"if you trust that code, say so: --model {model}",
        )
    return model


def _named(task: Task) -> Any:
    from p2pfl.learn.model_files import Named

    return Named(task.model, task.input_shape, task.classes, task.class_names)


def _tell(arguments: argparse.Namespace, told: dict[str, Any], words: str) -> None:
    print(json.dumps(told) if arguments.json else words)
