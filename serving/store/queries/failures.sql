-- Which rows failed, and why?
SELECT run_id, row, custom_id, lane, error_code, error_reason FROM rows WHERE outcome = 'failed' ORDER BY run_id, row;
