-- What did each step save against the baseline (every row, full model, nothing reused)? Estimates at measured rates.
WITH step AS (
    SELECT run_id, 'exact duplicates' AS step, sum(full_usd) AS saved_usd
    FROM rows_at_full_rates WHERE source = 'exact' GROUP BY run_id
    UNION ALL
    SELECT run_id, 'near-duplicates', sum(full_usd)
    FROM rows_at_full_rates WHERE source = 'semantic' GROUP BY run_id
    UNION ALL
    SELECT run_id, 'quantized lane', sum(full_usd) - sum(usd)
    FROM rows_at_full_rates WHERE source = 'engine' AND lane = 'quantized' GROUP BY run_id
    UNION ALL
    SELECT overheads.run_id, 'overheads beyond one start-up', first(start_up_usd) - sum(overheads.usd)
    FROM overheads
    LEFT JOIN (SELECT run_id, min(usd) AS start_up_usd FROM overheads WHERE kind = 'start_up' AND lane = 'full'
               GROUP BY run_id) USING (run_id)
    GROUP BY overheads.run_id
)
SELECT run_id, step, round(saved_usd, 9) AS saved_usd_estimated FROM step ORDER BY run_id, saved_usd DESC;
