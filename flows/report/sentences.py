"""`gristmill report`: what a run promises of its answers, in sentences to quote, and the numbers behind them."""

from flows.costs import in_table
from flows.promises import promises
from serving.store.ledger import ask, named_queries, open_ledger
from serving.store.run import Run


def report(run: Run) -> str:
    job = run.facts["job"]
    with open_ledger(run.folder.parent, only=run) as ledger:
        told = promises(ledger, run)
        anew = ask(ledger, named_queries()["certificate"].sql)
    lines = [f"gristmill  {run.run_id}", ""]
    if not told:
        way = '[reuse] semantic = true, or [route] to_quantized = "certified"'
        return "\n".join([*lines, f"nothing was served under a certificate; a job asks for it by {way}"])
    lines += [f"  {line}" for line in told]
    if anew.rows:
        judge = job["quality"]["judge"]
        lines += ["", f"Counted anew from the rows and their verdicts (judge: {judge}), look by look:", in_table(anew)]
    return "\n".join(lines)
