-- Which near-duplicates were compared, how near are they, and what forbade sharing an answer?
SELECT pairs.run_id, a.custom_id, b.custom_id AS other_custom_id, round(similarity, 4) AS similarity, veto,
       a.text, b.text AS other_text
FROM pairs
JOIN requests AS a ON a.run_id = pairs.run_id AND a.row = pairs.row
JOIN requests AS b ON b.run_id = pairs.run_id AND b.row = pairs.other_row
ORDER BY pairs.run_id, similarity DESC, pairs.row, pairs.other_row;
