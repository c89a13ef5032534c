-- What was paid for that no row caused: start-up, embedding, work that a crash threw away?
SELECT run_id, kind, lane, round(sum(seconds), 2) AS seconds, sum(usd) AS usd
FROM overheads GROUP BY run_id, kind, lane ORDER BY run_id, usd DESC;
