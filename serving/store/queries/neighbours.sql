-- How were near-duplicates looked for, and how many of the rows that were asked again exhaustively had found their nearest?
SELECT run_id, rows, texts, pairs, CASE WHEN lists = 0 THEN 'all with all' ELSE 'by ' || lists || ' lists' END AS search,
       asked, found, round(found / nullif(asked, 0), 4) AS recall_at_1
FROM searches ORDER BY run_id;
