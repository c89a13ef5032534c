-- How does the cost of a run come down, step by step, from every row in the full lane to what was paid?
WITH line AS (
    SELECT run_id, 0 AS place, 'every row in the full lane' AS step, usd AS change_usd, 'estimated' AS known FROM baselines
    UNION ALL
    SELECT run_id, place, step, -saved_usd, known FROM savings
)
SELECT run_id, step, change_usd,
       sum(change_usd) OVER (PARTITION BY run_id ORDER BY place, step ROWS UNBOUNDED PRECEDING) AS left_usd, known
FROM line ORDER BY run_id, place, step;
