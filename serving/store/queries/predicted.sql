-- What was each run expected to take, and what did it take? Tokens, seconds a token, start-up, all of it, and the cost.
SELECT run_id, made, coalesce(lane, 'all') AS lane, factor, predicted, low_90, high_90, measured,
       round(100 * off, 1) AS off_percent, within
FROM reconciled
ORDER BY run_id, made, lane, factor;
