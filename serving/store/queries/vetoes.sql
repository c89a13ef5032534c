-- How often did each veto forbid reuse?
SELECT run_id, coalesce(veto, 'none: may share an answer') AS veto, count(*) AS pairs,
       round(min(similarity), 4) AS lowest, round(max(similarity), 4) AS highest
FROM pairs GROUP BY ALL ORDER BY run_id, pairs DESC, veto;
