-- What has each job (a dataset under a tenant, as a schedule runs it) spent this month and before, and of which budget?
SELECT tenant, dataset, strftime(make_timestamp((created_unix_s * 1000000)::BIGINT), '%Y-%m') AS month, count(*) AS runs,
       sum(usd) AS usd, max(usd) AS dearest_run_usd, max(budget_usd) AS budget_usd_a_run,
       round(100 * max(usd / budget_usd), 1) AS most_of_it_percent,
       sum(sum(usd)) OVER (PARTITION BY tenant, dataset ORDER BY month) AS usd_to_date
FROM runs JOIN bills USING (run_id) GROUP BY tenant, dataset, month ORDER BY tenant, dataset, month;
