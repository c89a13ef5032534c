-- From which earlier runs were answers taken, to how many requests of each run?
SELECT run_id, from_run, count(*) AS requests, sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(completion_tokens)::BIGINT AS completion_tokens
FROM earlier GROUP BY run_id, from_run ORDER BY run_id, from_run;
