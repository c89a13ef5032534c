-- Views over the tables of every run. Money is exact DECIMAL USD; seconds are engine seconds.

-- Every settled row with its charge, and when it was sealed.
CREATE VIEW rows AS
SELECT settled.* EXCLUDE (file_of_part), sealed_unix_s
FROM settled JOIN segments ON settled.run_id = segments.run_id AND file_of_part = segments.file;

-- The rates of a lane: those of its last segment, which sum over all steps of the engine that wrote it. Last by the
-- numbers that writers give, not by a clock, which can be set back. An engine that
-- does not show its steps, such as a server, has one rate for every token: its time over its tokens.
CREATE VIEW lane_rates AS
WITH shown AS (
    SELECT run_id, lane,
           arg_max(prefill_s_per_token, (epoch, number)) AS prefill_s_per_token,
           arg_max(decode_s_per_token, (epoch, number)) AS decode_s_per_token
    FROM segments WHERE prefill_s_per_token IS NOT NULL GROUP BY ALL
), average AS (
    SELECT run_id, lane,
           sum(engine_s) / nullif(sum(prompt_tokens - cached_tokens + completion_tokens), 0) AS s_per_token
    FROM rows WHERE source = 'engine' GROUP BY run_id, lane
)
SELECT run_id, lane, coalesce(prefill_s_per_token, s_per_token) AS prefill_s_per_token,
       coalesce(decode_s_per_token, s_per_token) AS decode_s_per_token
FROM average LEFT JOIN shown USING (run_id, lane);

-- What each lane did: rows and tokens that its engine ran, its time, its money. Reused rows cost it nothing.
CREATE VIEW lanes AS
WITH ran AS (
    SELECT run_id, lane, any_value(model) AS model,
           count(*) FILTER (source = 'engine') AS rows_run,
           count(*) FILTER (source <> 'engine') AS rows_reused,
           count(*) FILTER (outcome = 'failed') AS rows_failed,
           coalesce(sum(prompt_tokens) FILTER (source = 'engine'), 0) AS prompt_tokens,
           coalesce(sum(cached_tokens) FILTER (source = 'engine'), 0) AS cached_tokens,
           coalesce(sum(completion_tokens) FILTER (source = 'engine'), 0) AS completion_tokens,
           sum(engine_s) AS engine_s, sum(usd) AS rows_usd
    FROM rows GROUP BY run_id, lane
), started AS (
    SELECT run_id, lane, sum(seconds) AS start_up_s, sum(usd) AS start_up_usd
    FROM overheads WHERE kind = 'start_up' GROUP BY run_id, lane
)
SELECT ran.*, coalesce(start_up_s, 0) AS start_up_s,
       coalesce(start_up_usd, 0)::DECIMAL(24, 12) AS start_up_usd
FROM ran LEFT JOIN started USING (run_id, lane);

-- The bill of a run: every row's charge and every overhead.
CREATE VIEW bills AS
SELECT run_id, coalesce(rows_usd, 0)::DECIMAL(38, 12) AS rows_usd,
       coalesce(overhead_usd, 0)::DECIMAL(38, 12) AS overhead_usd,
       (coalesce(rows_usd, 0) + coalesce(overhead_usd, 0))::DECIMAL(38, 12) AS usd,
       coalesce(answered, 0) AS answered, coalesce(failed, 0) AS failed
FROM runs
LEFT JOIN (SELECT run_id, sum(usd) AS rows_usd, count(*) FILTER (outcome = 'answered') AS answered,
                  count(*) FILTER (outcome = 'failed') AS failed
           FROM rows GROUP BY run_id) USING (run_id)
LEFT JOIN (SELECT run_id, sum(usd) AS overhead_usd FROM overheads GROUP BY run_id) USING (run_id);

-- What was spent and has no settled row to show for it: engine time in which nothing was finished, and tokens that were
-- computed and thrown away when an engine stopped, died or was killed.
CREATE VIEW waste AS
SELECT run_id, lane, engine, seconds, tokens, usd FROM overheads WHERE kind = 'waste';

-- What each settled row would have cost in the full lane, alone: an estimate at the rates that the full lane showed in
-- this run. Null where the full lane did not run.
CREATE VIEW rows_at_full_rates AS
SELECT rows.run_id, row, lane, source, usd,
       CASE WHEN usd_per_hour IS NULL
            THEN (prompt_tokens * input_usd_per_mtok + completion_tokens * output_usd_per_mtok) / 1000000
            ELSE usd_per_hour / 3600 * ((prompt_tokens - cached_tokens) * prefill_s_per_token
                                        + completion_tokens * decode_s_per_token)
       END::DECIMAL(24, 12) AS full_usd
FROM rows
JOIN runs USING (run_id)
LEFT JOIN (SELECT * EXCLUDE (lane) FROM lane_rates WHERE lane = 'full') USING (run_id);

-- The baseline of a run: every row in the full lane, no answer reused, the prefix cache as it was, one start-up of it.
-- An estimate.
CREATE VIEW baselines AS
SELECT run_id, sum(full_usd) AS rows_usd,
       sum(full_usd) + coalesce(any_value(start_up_usd), 0) AS usd
FROM rows_at_full_rates
LEFT JOIN (SELECT run_id, min(usd) AS start_up_usd FROM overheads
           WHERE kind = 'start_up' AND lane = 'full' GROUP BY run_id) USING (run_id)
GROUP BY run_id HAVING count(full_usd) = count(*);

-- What each step saved against the baseline, or cost beyond it. `known` says whether it is a line of the bill, or rests
-- on what rows would have cost in the full lane. The steps of a run add up to its baseline less its bill, to the last
-- digit. A row is credited to the one lever that it was answered by.
CREATE VIEW savings AS
WITH ran AS MATERIALIZED (  -- all rows are gone through once, however many steps rest on them
    SELECT run_id, lane, source, sum(full_usd) AS full_usd, sum(usd) AS usd, count(full_usd) = count(*) AS all_priced
    FROM rows_at_full_rates GROUP BY run_id, lane, source
), step AS (
    SELECT run_id, 1 AS place, 'exact duplicates' AS step, sum(full_usd) AS saved_usd
    FROM ran WHERE source = 'exact' GROUP BY run_id
    UNION ALL
    SELECT run_id, 2, 'near-duplicates', sum(full_usd)
    FROM ran WHERE source = 'semantic' GROUP BY run_id
    UNION ALL
    SELECT run_id, 3, 'answers of earlier runs', sum(full_usd)
    FROM ran WHERE source = 'earlier' GROUP BY run_id
    UNION ALL
    SELECT run_id, 4, lane || ' lane', sum(full_usd) - sum(usd)
    FROM ran WHERE source = 'engine' AND lane <> 'full' GROUP BY run_id, lane
    UNION ALL
    SELECT run_id, 5, 'full lane, measured against estimated', sum(full_usd) - sum(usd)
    FROM ran WHERE source = 'engine' AND lane = 'full' GROUP BY run_id
    UNION ALL
    SELECT run_id, 6, 'start-up of the ' || lane || ' lane', -sum(usd)
    FROM overheads WHERE kind = 'start_up' AND lane <> 'full' GROUP BY run_id, lane
    UNION ALL
    SELECT run_id, 7, 'further start-ups of the full lane', min(usd) - sum(usd)
    FROM overheads WHERE kind = 'start_up' AND lane = 'full' GROUP BY run_id HAVING count(*) > 1
    UNION ALL
    SELECT run_id, 8, kind, -sum(usd) FROM overheads WHERE kind <> 'start_up' GROUP BY run_id, kind
)
SELECT step.run_id, place, step, saved_usd::DECIMAL(38, 12) AS saved_usd,
       CASE WHEN place < 6 THEN 'estimated' ELSE 'measured' END AS known
FROM step WHERE saved_usd <> 0 AND run_id IN (SELECT run_id FROM ran GROUP BY run_id HAVING bool_and(all_priced));

-- What was predicted of a run against what it took, factor by factor: cost = (tokens x seconds a token + start-up) x
-- price. `made` says when: plan, before the first row ran; pilot, after the first of them had. `lane` is null for the
-- whole run. A run that has open rows is not there. What audits will find is not foretold, so that forecasts have every
-- near-duplicate run: those that did not need to count as if they had.
CREATE VIEW reconciled AS
WITH whole AS (
    SELECT run_id FROM runs JOIN bills USING (run_id) WHERE rows_in = refused + answered + failed
), unserved AS (
    SELECT run_id, saved_usd, (saved_usd / usd_per_hour)::DOUBLE * 3600 AS saved_s
    FROM savings JOIN runs USING (run_id) WHERE step = 'near-duplicates'
), by_lane AS (
    SELECT run_id, lane, prompt_tokens - cached_tokens + completion_tokens AS tokens, engine_s, start_up_s FROM lanes
), measured AS (
    SELECT run_id, lane, 'tokens' AS factor, tokens::DOUBLE AS measured FROM by_lane
    UNION ALL SELECT run_id, lane, 's_per_token', engine_s / nullif(tokens, 0) FROM by_lane
    UNION ALL SELECT run_id, lane, 'start_up_s', start_up_s FROM by_lane
    UNION ALL SELECT run_id, lane, 'seconds', engine_s + start_up_s FROM by_lane
    UNION ALL SELECT run_id, NULL, 'seconds', sum(engine_s + start_up_s) + coalesce(any_value(saved_s), 0)
              FROM by_lane LEFT JOIN unserved USING (run_id) GROUP BY run_id
    UNION ALL SELECT run_id, NULL, 'usd', (usd + coalesce(saved_usd, 0))::DOUBLE
              FROM bills LEFT JOIN unserved USING (run_id)
    UNION ALL SELECT run_id, NULL, 'near_saved_usd', sum(saved_usd)::DOUBLE FROM savings
              WHERE step IN ('near-duplicates', 'embedding') GROUP BY run_id
)
SELECT predictions.run_id, made, predictions.lane, predictions.factor, predicted, low_90, high_90, measured,
       measured / nullif(predicted, 0) - 1 AS off, measured BETWEEN low_90 AND high_90 AS within
FROM predictions
JOIN whole USING (run_id)
JOIN measured ON measured.run_id = predictions.run_id AND measured.factor = predictions.factor
             AND measured.lane IS NOT DISTINCT FROM predictions.lane;
