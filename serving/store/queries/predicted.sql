-- What each run was expected to take, against what it took: tokens, seconds a token, start-up, all of it, and the cost
SELECT run_id, made, coalesce(lane, 'all') AS lane, factor, predicted, low_90, high_90, measured,
       round(100 * off, 1) AS off_percent, within
FROM reconciled
ORDER BY run_id, made, lane, factor;
