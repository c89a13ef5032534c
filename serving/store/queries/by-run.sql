-- What did each run cost, how many rows did it answer, and what does that make per 1,000 rows?
SELECT run_id, dataset, engine, rows_in, answered, failed, refused, bills.usd,
       round(baselines.usd, 6) AS baseline_usd_estimated,
       CASE WHEN answered > 0 THEN round(bills.usd * 1000 / answered, 6) END AS usd_per_1000_answers
FROM runs JOIN bills USING (run_id) LEFT JOIN baselines USING (run_id)
ORDER BY created_unix_s;
