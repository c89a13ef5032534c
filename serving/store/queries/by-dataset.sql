-- What did each dataset cost over all runs, and what does that make per 1,000 answers and per million tokens?
WITH tokens AS (
    SELECT run_id, sum(prompt_tokens - cached_tokens + completion_tokens) AS tokens FROM lanes GROUP BY run_id
)
SELECT dataset, count(*) AS runs, sum(rows_in)::BIGINT AS rows_in, sum(answered)::BIGINT AS answered, sum(usd) AS usd,
       round(sum(usd) * 1000 / nullif(sum(answered), 0), 6) AS usd_per_1000_answers,
       round(sum(usd) * 1000000 / nullif(sum(tokens), 0), 6) AS usd_per_m_computed_tokens
FROM runs JOIN bills USING (run_id) LEFT JOIN tokens USING (run_id)
GROUP BY dataset ORDER BY usd DESC, dataset;
