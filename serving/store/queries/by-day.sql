-- What was spent on each day (UTC)? Overheads count on the day their run began.
WITH spent AS (
    SELECT sealed_unix_s AS unix_s, usd FROM rows
    UNION ALL
    SELECT created_unix_s, overheads.usd FROM overheads JOIN runs USING (run_id)
)
SELECT make_timestamp((unix_s * 1000000)::BIGINT)::DATE AS day, sum(usd) AS usd FROM spent GROUP BY day ORDER BY day;
