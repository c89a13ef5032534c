-- What did each step save against the baseline (every row, full model, nothing reused), or cost beyond it? Estimates.
SELECT run_id, step, round(saved_usd, 9) AS saved_usd_estimated FROM savings ORDER BY run_id, place, step;
