-- What would the latest run have cost on each priced machine, at the speed it had; and in which time must that machine do it to cost the same?
WITH latest AS (
    SELECT run_id, bills.usd, seconds FROM runs JOIN bills USING (run_id)
    JOIN (SELECT run_id, sum(engine_s + start_up_s) AS seconds FROM lanes GROUP BY run_id) USING (run_id)
    ORDER BY created_unix_s DESC LIMIT 1
)
SELECT run_id, machine, region, spot, gpu, gpus, prices.usd_per_hour, round(seconds, 1) AS took_s, usd AS paid_usd,
       (prices.usd_per_hour * seconds / 3600)::DECIMAL(24, 12) AS usd_at_this_speed,
       round(usd::DOUBLE / prices.usd_per_hour::DOUBLE * 3600, 2) AS same_cost_in_s,
       round(prices.usd_per_hour::DOUBLE * seconds / 3600 / nullif(usd, 0)::DOUBLE, 2) AS must_be_times_as_fast
FROM latest CROSS JOIN prices ORDER BY prices.usd_per_hour, machine, region;
