-- What did each lane run, how fast, and at what price per million output tokens?
SELECT run_id, lane, model, rows_run, rows_reused, prompt_tokens, cached_tokens, completion_tokens,
       round(engine_s, 2) AS engine_s, round(start_up_s, 2) AS start_up_s,
       CASE WHEN engine_s > 0 THEN round(completion_tokens / engine_s, 1) END AS output_tokens_per_s,
       rows_usd, start_up_usd,
       CASE WHEN completion_tokens > 0 THEN round(rows_usd * 1000000 / completion_tokens, 4) END AS usd_per_m_output_tokens
FROM lanes ORDER BY run_id, lane;
