-- What did each tenant's datasets cost?
SELECT tenant, dataset, count(*) AS runs, sum(rows_in) AS rows_in, sum(answered) AS answered, sum(usd) AS usd
FROM runs JOIN bills USING (run_id) GROUP BY tenant, dataset ORDER BY usd DESC, tenant, dataset;
