"""The command `gristmill`: arguments in, exit codes out. Bad input ends in one clear line, never in a traceback."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from flows import interrupts
from flows.terminal import printable
from serving.environment import make_prefect_home, settle

LINE_BREAK = "\n"
STATE = Path(".gristmill")
MODELS = Path("models")
BUILT_IN = "the built-in models: SmolLM2-135M-Instruct (full and INT8) and all-MiniLM-L6-v2"


def main(arguments: Sequence[str] | None = None) -> int:
    options = command_line().parse_args(arguments)
    with interrupts.remembered():
        return _in_words(lambda: _settled(options))


def _settled(options: argparse.Namespace) -> int:
    settle(STATE.resolve())
    code: int = options.command(options)
    return code


def _in_words(command: Callable[[], int]) -> int:
    """Run a command; turn what can go wrong into its exit code and a line that names the thing and the way out."""
    try:
        return command()
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as fault:
        from flows.faults import exit_code_of  # it knows every part that can fail, which takes a while to load

        if (code := exit_code_of(fault)) is None:
            raise
        print(f"gristmill: {printable(str(fault), keep=LINE_BREAK)}", file=sys.stderr)
        return code


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gristmill", description="A file of prompts in, a file of answers and a bill out."
    )
    parser.add_argument("--version", action="version", version=f"gristmill {version('gristmill')}")
    runs = os.environ.get("GRISTMILL_RUNS", "runs")
    parser.add_argument("--runs", default=runs, help="run folders; a folder, or s3://BUCKET/FOLDER")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _add(commands, "run", _run, "run or resume a job")
    _job_arguments(run)
    run.add_argument("--prefect", action="store_true", help="as a Prefect flow (also if PREFECT_API_URL is set)")
    run.add_argument("--quiet", action="store_true", help="only the receipt")
    run.add_argument("--resume", metavar="RUN", help="refuse, with the differences, unless the job is that run's")
    run.add_argument("--take-over", action="store_true", help="from a holder that hangs, or cannot be asked any more")

    planned = _add(commands, "plan", _plan, "what a job will cost, before an engine is asked for anything")
    _job_arguments(planned)
    planned.add_argument("--json", action="store_true")

    calibrated = _add(commands, "calibrate", _calibrate, "run a few rows of a job, to forecast the rest and others")
    _job_arguments(calibrated)
    calibrated.add_argument("--rows", type=_count, default=128, metavar="N", help="of each lane (default: 128)")

    for name, command, what in (
        ("status", _status, "where a run stands"),
        ("verify", _verify, "recompute every hash, count and sum of a run"),
        ("export", _export, "write a run's results.jsonl and errors.jsonl again"),
        ("report", _report, "what is certain of a run's answers, and the numbers behind it"),
    ):
        of_run = _add(commands, name, command, what)
        of_run.add_argument("run", nargs="?", default="latest", help="run id or the start of one (default: the latest)")
        if name == "status":
            of_run.add_argument("--watch", action="store_true", help="until nobody works on it any more")

    costs = _add(commands, "costs", _costs, "ask the ledger; bare, list its questions")
    costs.add_argument("name", nargs="?", help="a named query")
    costs.add_argument("--sql", help="a SELECT statement of your own")
    costs.add_argument("--format", choices=("table", "csv", "json"), default="table")
    costs.add_argument(
        "--leave-out-damaged", action="store_true", help="count the other runs, and say which are left out"
    )

    models = _add(commands, "models", _models, "local model folders")
    actions = models.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="what is there")
    actions.add_parser("prepare", help=BUILT_IN)
    _quantize_arguments(actions.add_parser("quantize", help="a smaller copy of a folder, measured against it"))
    importing = actions.add_parser("import", help="a GGUF file of a Llama or Qwen2 model, as a safetensors folder")
    importing.add_argument("file", type=Path)
    importing.add_argument("target", type=Path)

    schedule = _add(commands, "schedule", _schedule, "serve a job as a Prefect deployment, on a cron")
    _job_arguments(schedule)
    schedule.add_argument("--cron", required=True, help='such as "0 2 * * *"')

    predicted = _add(commands, "predict", _predict, "the planner alone, over a table of configurations")
    predicted.add_argument(
        "rows", type=Path, help="a CSV file with the columns engine, model, gpu, metric, isl, osl, ..."
    )
    predicted.add_argument(
        "--output", type=Path, required=True, help="the same table with predictions and their bounds"
    )
    _catalogue_argument(predicted)

    explaining = _add(commands, "explain", _explain, "the arithmetic of a model on a GPU, with its roofline")
    _explain_arguments(explaining)
    _catalogue_argument(explaining)

    _add(commands, "doctor", _doctor, "what this machine can run")
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: Callable[[argparse.Namespace], int],
    what: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what)
    parser.set_defaults(command=command)
    return parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="a job file (TOML)")
    parser.add_argument("--input", help="another input than the job's dataset.path")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a key of the job file")
    parser.add_argument("--catalogue", metavar="FILE", help="another file of your own than the job's price.catalogue")


def _catalogue_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="GPUs, models and prices of your own (TOML)")


def _quantize_arguments(parser: argparse.ArgumentParser) -> None:
    from serving.models.quantize.schemes import SCHEMES

    parser.add_argument("source", type=Path, help="the full model's folder")
    parser.add_argument("target", type=Path, nargs="?", help="default: beside the source, with the scheme in its name")
    parser.add_argument("--scheme", choices=SCHEMES, default="w8a8", help="default: w8a8; see docs/models.md")
    of_rows = parser.add_mutually_exclusive_group()
    of_rows.add_argument("--calibrate", type=Path, metavar="JOB", help="a job file: look at rows, measure on others")
    of_rows.add_argument("--measure", type=Path, metavar="JOB", help="a job file: only measure on rows")
    parser.add_argument("--rows", type=_count, default=256, metavar="N", help="rows to look at (default: 256)")
    parser.add_argument("--held-out", type=_count, default=64, metavar="N", help="rows to measure on (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of rows (default: 0)")
    parser.add_argument("--group-size", type=int, metavar="N", help="4-bit: inputs that share a scale; 0: a channel")
    parser.add_argument("--speed", action="store_true", help="also run both models through the engine")
    parser.add_argument("--python", type=Path, help="an interpreter that has llmcompressor (default: .venv-quantize)")


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of the catalogue, such as Llama-3.1-8B, or a local folder")
    parser.add_argument("hardware", help='a GPU of the catalogue, such as H100, or several: "H100 x4"')
    parser.add_argument("--weights", metavar="W", help="bf16, fp8, w8a8, w4a16, nvfp4, ... (default: as published)")
    parser.add_argument("--kv-dtype", default="auto", metavar="K", help="auto (16 bit) or fp8")
    parser.add_argument("--tensor-parallel", type=_count, metavar="N", help="default: all the GPUs that are named")
    parser.add_argument("--prompt-tokens", type=_count, default=1024, metavar="N", help="default: 1024")
    parser.add_argument("--output-tokens", type=_count, default=256, metavar="N", help="default: 256")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the roofline, as .png or .svg")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def _overrides(options: argparse.Namespace) -> list[str]:
    from serving.config import as_override

    named = (("dataset.path", options.input), ("price.catalogue", options.catalogue))
    given = [as_override(key, text) for key, text in named if text is not None]
    return [*given, *options.set]


def _run(options: argparse.Namespace) -> int:
    from flows.answer import answer_work
    from flows.buckets import runs_folder
    from flows.drift import refuse_drift, unfinished_likeness
    from flows.open import open_work
    from flows.progress import progress_for
    from serving.config import load_job

    job = load_job(options.job, _overrides(options))
    progress = progress_for(job.budget.usd, options.quiet)
    try:
        work = open_work(job, runs_folder(options.runs), progress, options.take_over)
        if options.resume is not None:
            refuse_drift(work, options.resume)
        elif (unlike := unfinished_likeness(work)) is not None:
            progress.say(unlike)
        if (options.prefect or os.environ.get("PREFECT_API_URL")) and not work.finished:
            progress.say("starting Prefect")
            make_prefect_home()
            from flows.orchestrate import answer_as_flow

            receipt = answer_as_flow(work, str(options.job))
        else:
            receipt = answer_work(work)
    finally:
        progress.end()
    print(receipt)
    return receipt.exit_code


def _plan(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from flows.open import open_work
    from flows.plan import plan
    from flows.progress import progress_for
    from serving.config import load_job

    job = load_job(options.job, _overrides(options))
    work = open_work(job, runs_folder(options.runs), progress_for(job.budget.usd, quiet=True))
    if work.finished:
        print(f"{work.run.run_id} is finished: running it again costs nothing")
        return 0
    told = plan(work)
    print(json.dumps(told.as_json(), indent=1) if options.json else told)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from flows.calibrate import calibrate
    from flows.open import open_work
    from flows.progress import progress_for
    from serving.config import load_job

    job = load_job(options.job, _overrides(options))
    progress = progress_for(job.budget.usd, quiet=False)
    try:
        runs = runs_folder(options.runs)
        report = calibrate(lambda: open_work(job, runs, progress), options.rows)
    finally:
        progress.end()
    print(report)
    return 0


def _status(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from flows.status import status_of, watch
    from flows.terminal import in_place
    from serving.store.run import find_run

    run = find_run(runs_folder(options.runs), options.run)
    if options.watch:
        watch(run, in_place(sys.stdout))
    else:
        print(status_of(run))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from serving.store.run import find_run
    from serving.store.verify import verify

    run = find_run(runs_folder(options.runs), options.run)
    checked = verify(run)
    print(f"{run.run_id}: {checked.files} files, {checked.rows} settled rows, every hash, count and sum as written")
    return 0


def _report(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from flows.report.page import write_page
    from flows.report.sentences import report
    from serving.store.bucket import name_of
    from serving.store.run import find_run

    run = find_run(runs_folder(options.runs), options.run)
    print(printable(report(run), keep=LINE_BREAK))
    print(printable(f"\nall of it on one page: {name_of(write_page(run))}", keep=LINE_BREAK))
    return 0


def _export(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from serving.store.bucket import name_of
    from serving.store.export import export
    from serving.store.ledger import open_ledger
    from serving.store.run import find_run

    run = find_run(runs_folder(options.runs), options.run)
    with open_ledger(run.folder.parent) as ledger:
        for file in export(run, ledger):
            print(name_of(file))
    return 0


def _costs(options: argparse.Namespace) -> int:
    from flows.buckets import runs_folder
    from flows.costs import costs

    warn = _warn if options.leave_out_damaged else None
    print(costs(runs_folder(options.runs), options.name, options.sql, options.format, warn))
    return 0


def _warn(warning: str) -> None:
    print(printable(warning), file=sys.stderr)


def _models(options: argparse.Namespace) -> int:
    from flows.models import table

    if options.action == "prepare":
        from serving.models.prepare import prepare

        prepare(MODELS, STATE / "wheels", _say)
    elif options.action == "quantize":
        _quantize(options)
    elif options.action == "import":
        from serving.models.gguf_import import import_file

        import_file(options.file, options.target)
    print(table(MODELS, _warn))
    return 0


def _quantize(options: argparse.Namespace) -> None:
    from flows.quantize import Wish, make_quantized, table
    from serving.models.quantize.apart import PYTHON

    source: Path = options.source
    wish = Wish(
        source=source,
        target=options.target or source.absolute().with_name(f"{source.absolute().name}-{options.scheme}"),
        scheme=options.scheme,
        calibrate=options.calibrate,
        measure=options.measure,
        rows=options.rows,
        held_out=options.held_out,
        seed=options.seed,
        group_size=options.group_size,
        speed=options.speed,
        python=options.python or PYTHON,
        log=STATE / "quantize.log",
    )
    fidelity = make_quantized(wish, _say)
    if fidelity is not None:
        print(f"\n{table(fidelity)}\n")


def _say(message: str) -> None:
    print(printable(message), flush=True)


def _schedule(options: argparse.Namespace) -> int:
    from flows.schedule import serve
    from serving.config import load_job

    overrides = _overrides(options)
    load_job(options.job, overrides)  # what is wrong with it should be said now, not at two in the morning
    serve(options.job, overrides, options.runs, options.cron)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from flows.predict import predict_file
    from optimizer.catalogue.catalogue import Catalogue

    rows = predict_file(options.rows, options.output, Catalogue.load(options.catalogue))
    print(printable(f"{options.output}: {rows} rows"))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from flows.explain import check_picture, explained, subject_of, text_of
    from optimizer.catalogue.catalogue import Catalogue

    if options.picture is not None:
        check_picture(options.picture)
    subject = subject_of(
        options.model, options.hardware, options.weights, options.kv_dtype, options.tensor_parallel,
        Catalogue.load(options.catalogue),
    )  # fmt: skip
    found = explained(subject, options.prompt_tokens, options.output_tokens)
    print(printable(text_of(subject, found), keep=LINE_BREAK))
    if options.picture is not None:
        from flows.pictures.roofline import draw

        draw(found, subject.title, options.picture)
        print(printable(f"\n{options.picture}", keep=LINE_BREAK))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from flows.doctor import report

    print(report(MODELS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
