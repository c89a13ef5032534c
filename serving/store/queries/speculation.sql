-- How many guessed tokens were right, lane by lane, and how much of the output was guessed?
SELECT run_id, lane, sum(drafted_tokens)::BIGINT AS drafted, sum(accepted_tokens)::BIGINT AS accepted,
       round(100.0 * sum(accepted_tokens) / sum(drafted_tokens), 1) AS accepted_percent,
       round(100.0 * sum(accepted_tokens) / nullif(sum(completion_tokens), 0), 1) AS of_output_percent
FROM rows WHERE source = 'engine' GROUP BY run_id, lane HAVING sum(drafted_tokens) > 0 ORDER BY run_id, lane;
