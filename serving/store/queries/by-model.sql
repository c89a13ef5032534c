-- What did each model cost over all runs?
SELECT model, count(DISTINCT run_id) AS runs, sum(rows_run) AS rows_run, sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens, round(sum(engine_s), 2) AS engine_s,
       sum(rows_usd + start_up_usd) AS usd
FROM lanes GROUP BY model ORDER BY usd DESC, model;
