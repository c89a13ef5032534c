-- What does each certificate rest on, counted anew from the rows: candidates, audits, wrong ones, and the bound?
WITH counted AS (
    SELECT looks.run_id, looks.lever, looks.look, count(*) AS rows, count(*) FILTER (audited) AS audited,
           count(*) FILTER (NOT verdicts.agrees) AS wrong
    FROM looks
    LEFT JOIN near ON looks.lever = 'near' AND near.run_id = looks.run_id AND near.row = looks.row
    LEFT JOIN rows AS representative
      ON representative.run_id = looks.run_id AND representative.row = near.answered_by
     AND representative.outcome = 'answered'
    LEFT JOIN verdicts
      ON verdicts.run_id = looks.run_id AND verdicts.lever = looks.lever AND verdicts.look = looks.look
     AND verdicts.row = looks.row
    WHERE near.row IS NULL OR representative.row IS NOT NULL
    GROUP BY looks.run_id, looks.lever, looks.look
), promised AS (
    SELECT run_id, lever, look, counted.rows, counted.audited, counted.wrong, max_wrong, delta, seed, certified,
           most_wrong AS said
    FROM counted JOIN certificates USING (run_id, lever, look)
), chance AS (  -- of finding so few wrong ones, were `most` of the rows wrong: hypergeometric
    SELECT run_id, lever, look, most, sum(exp(
        lgamma(most + 1) - lgamma(found + 1) - lgamma(most - found + 1)
        + lgamma(rows - most + 1) - lgamma(audited - found + 1) - lgamma(rows - most - audited + found + 1)
        - lgamma(rows + 1) + lgamma(audited + 1) + lgamma(rows - audited + 1))) AS hidden
    FROM promised,
         unnest(range(wrong, rows - (audited - wrong) + 1)) AS all_most(most),
         unnest(range(greatest(0, audited - (rows - most)), least(wrong, most) + 1)) AS all_found(found)
    GROUP BY run_id, lever, look, most
)
SELECT run_id, lever, look, rows, audited, wrong, max(most) AS most_wrong, said, max_wrong, 1 - delta AS confidence,
       certified, seed
FROM promised JOIN chance USING (run_id, lever, look)
WHERE hidden > delta * (1 - 1e-9) OR most = wrong
GROUP BY ALL
ORDER BY run_id, lever, look;
