-- What did each step save against the baseline (every row, full model, nothing reused), or cost beyond it?
SELECT run_id, step, saved_usd, known FROM savings ORDER BY run_id, place, step;
