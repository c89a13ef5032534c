-- How many prompt tokens did the prefix cache spare each lane?
SELECT run_id, lane, prompt_tokens, cached_tokens,
       CASE WHEN prompt_tokens > 0 THEN round(100.0 * cached_tokens / prompt_tokens, 1) END AS hit_percent
FROM lanes ORDER BY run_id, lane;
