-- What was computed and thrown away, and what did it cost?
SELECT run_id, lane, count(*) AS times, sum(tokens) AS tokens, round(sum(seconds), 3) AS seconds, sum(usd) AS usd
FROM waste GROUP BY run_id, lane ORDER BY run_id, lane;
