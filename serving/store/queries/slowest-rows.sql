-- Which 20 rows took the most engine time, and why?
SELECT run_id, row, custom_id, lane, prompt_tokens, completion_tokens, round(prefill_s, 3) AS prefill_s,
       round(decode_s, 3) AS decode_s, round(engine_s, 4) AS engine_s_charged, usd
FROM rows WHERE source = 'engine' ORDER BY engine_s DESC, run_id, row LIMIT 20;
