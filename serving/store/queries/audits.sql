-- Which audited rows would have been given another answer than the full model's, and which one?
WITH served AS (
    SELECT near.run_id, 'near' AS lever, near.row, representative.choices
    FROM near JOIN rows AS representative
      ON representative.run_id = near.run_id AND representative.row = near.answered_by
    UNION ALL
    SELECT run_id, lever, row, choices FROM trials
)
SELECT verdicts.run_id, verdicts.lever, verdicts.look, rows.custom_id,
       json_extract_string(served.choices, '$[0].text') AS would_be, json_extract_string(rows.choices, '$[0].text') AS own
FROM verdicts JOIN rows USING (run_id, row)
LEFT JOIN served ON served.run_id = verdicts.run_id AND served.lever = verdicts.lever AND served.row = verdicts.row
WHERE NOT agrees ORDER BY ALL;
